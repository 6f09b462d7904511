"""The demo: a small drawn world on which tiny models are trained."""
