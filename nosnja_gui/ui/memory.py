"""What the window remembers between visits: forms as they were left, the dataset that was open. Losing it loses no work."""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any


class Memory:
    """Named JSON values in one file of the workspace's cache; whoever writes last is remembered."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def put(self, name: str, value: Any) -> None:
        """Remember a JSON value. A disk that can't be written is no reason to disturb the user."""
        with self._lock:
            if self._values.get(name) == value:
                return
            self._values[name] = value
            part = self.file.with_suffix(f".{os.getpid()}.part")
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                part.write_text(json.dumps(self._values, ensure_ascii=False), encoding="utf-8")
                os.replace(part, self.file)
            except OSError:
                with contextlib.suppress(OSError):
                    part.unlink()
