"""Nošnja: fine-tune Stable Diffusion on your own pictures and see what works.

The floors of the house; a module only ever imports from its own floor and those below it.

    top      __main__, commands/ (the command line), demo/ (a drawn world, small models, the whole job)
    window   ui/                                            gradio; never torch, never engine/
    work     engine/ (the training loop, sampler, grids)    torch; never gradio
             launcher, work_queue, check, toolbox           processes; neither of the two
    jobs     jobs/, runs, presets, foreign/, logs            what is asked for, and what became of it
             models, hardware, plan, estimate, grids, gridpage, library, publishing, places
                                                            what there is, and what a job would do with it
    shelves  dataset/, families/, methods/, captioners/, adapters/, axes, schedules, timesteps
             sources, weights, embeddings, hypernetworks, sheet, infotext, tokens, emphasis
                                                            one file per entry; torch only inside functions
    words    settings, events, workspace, registry, files, processes, progress, install
                                                            the standard library, pydantic, yaml
"""

__version__ = "0.1.0"
