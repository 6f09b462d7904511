"""A model from the hub."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import Field, field_validator, model_validator

from nosnja_gui.settings import Settings, Shown


class DownloadJob(Settings):
    job: Literal["download"] = "download"
    repo: Annotated[str, Field(title="Model on the hub"), Shown(essential=True)]
    """The model's name on the Hugging Face hub, USER/NAME, or its address there."""
    revision: str = ""
    """A branch, tag or commit of it; empty takes the newest."""
    file: Annotated[str, Field(title="Single file")] = ""
    """Only this .safetensors file, by its name there; empty takes the whole model as a diffusers folder."""
    variant: Annotated[Literal["", "fp16"], Shown(titles={"": "Whole precision", "fp16": "fp16"})] = ""
    """fp16 takes weights of half the size where there are such; good enough for most trainings."""
    name: Annotated[str, Field(title="Name here")] = ""
    """What it is called in the models folder; empty takes its name there."""

    @model_validator(mode="before")
    @classmethod
    def _reads_an_address(cls, values: Any) -> Any:
        """https://huggingface.co/USER/NAME/blob/main/model.safetensors, as copied from a browser, says repo, revision and file."""
        found = re.fullmatch(
            r"https?://[^/]+/([^/?#]+/[^/?#]+)(?:/(?:tree|blob|resolve)/([^/?#]+)(?:/([^?#]+))?)?/?(?:[?#].*)?", _repo_in(values)
        )
        if not found:
            return values
        said = {"repo": found[1], "revision": unquote(found[2] or ""), "file": unquote(found[3] or "")}
        return {**said, **{name: value for name, value in values.items() if value and name != "repo"}}

    @field_validator("repo")
    @classmethod
    def _is_an_id(cls, repo: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo.strip()):
            raise ValueError("is no model of the hub: write USER/NAME, such as stable-diffusion-v1-5/stable-diffusion-v1-5")
        return repo.strip()


def _repo_in(values: Any) -> str:
    repo = values.get("repo") if isinstance(values, dict) else None
    return repo.strip() if isinstance(repo, str) else ""
