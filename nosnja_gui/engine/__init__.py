"""What computes: training, sampling, captioning, grids. Uses torch; never knows of the window (gradio)."""
