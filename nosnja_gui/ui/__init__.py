"""The window. Knows Gradio, runs and settings; never torch nor the engine. One file per tab."""
