@echo off
rem launch.bat                       opens the window (--port N, --listen, --workspace FOLDER, --no-browser)
rem launch.bat VERB [arguments]      demo, caption, trigger, train, grid, check ... each with --help
rem launch.bat test [arguments]      the tests; arguments go to pytest
rem
rem The first start makes .venv beside this file and installs into it: see nosnja_gui\install.py.
rem No brackets of blocks anywhere: a path such as "C:\Program Files (x86)" would end them.
setlocal EnableExtensions DisableDelayedExpansion

set "ROOT=%~dp0"
set "VENV_PYTHON=%ROOT%.venv\Scripts\python.exe"
set "INSTALL=%ROOT%nosnja_gui\install.py"
set "TESTS="
if "%~1"=="test" set "TESTS=--tests"
rem So that bars and foreign letters come out right when the output goes to a file.
set "PYTHONUTF8=1"

if not exist "%VENV_PYTHON%" goto find
"%VENV_PYTHON%" -I -S "%INSTALL%" ready %TESTS% 2>nul
if %ERRORLEVEL% EQU 0 goto run

:find
set "BASE="
call :try py -3.12
call :try py -3.13
call :try py -3.11
call :try python
call :try python3
if defined BASE goto install
where uv >nul 2>nul
if errorlevel 1 goto nopython
echo [nosnja] No Python 3.11 to 3.13 here: letting uv bring one.
uv python find 3.12 >nul 2>nul
if errorlevel 1 uv python install 3.12
for /f "usebackq delims=" %%P in (`uv python find 3.12 2^>nul`) do set BASE="%%P"
if not defined BASE goto nopython

:install
%BASE% -I "%INSTALL%" install %TESTS%
if %ERRORLEVEL% EQU 0 goto run
set "CODE=%ERRORLEVEL%"
goto end

:run
rem Found from any folder, so that relative paths in the arguments are the user's.
if defined PYTHONPATH set "PYTHONPATH=%ROOT%;%PYTHONPATH%"
if not defined PYTHONPATH set "PYTHONPATH=%ROOT%"
if "%~1"=="test" goto test
set "FIRST=%~1"
if not defined FIRST goto window
if "%FIRST:~0,1%"=="-" goto window
rem -P: a file random.py in the user's folder is not ours.
"%VENV_PYTHON%" -P -m nosnja_gui %*
set "CODE=%ERRORLEVEL%"
goto end

:window
"%VENV_PYTHON%" "%ROOT%app.py" %*
set "CODE=%ERRORLEVEL%"
goto end

:test
set "REST="
for /f "tokens=1,*" %%A in ("%*") do set "REST=%%B"
pushd "%ROOT%"
"%VENV_PYTHON%" -m ruff check .
set "CODE=%ERRORLEVEL%"
if %CODE% EQU 0 "%VENV_PYTHON%" -m pytest %REST%
if %CODE% EQU 0 set "CODE=%ERRORLEVEL%"
popd
goto end

:nopython
echo [nosnja] Nosnja needs Python 3.11, 3.12 or 3.13 (from python.org), or the program uv, which brings one: install either and run this again.
set "CODE=1"

:end
rem Opened by a double click the message would vanish with the window.
if not "%~1"=="" exit /b %CODE%
if not "%CODE%"=="0" pause
exit /b %CODE%

:try
if defined BASE exit /b 0
%* -I "%INSTALL%" suitable >nul 2>nul
if %ERRORLEVEL% EQU 0 set "BASE=%*"
exit /b 0
