"""Publishing a model on the hub: a folder as `save_pretrained` writes it, uploaded in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditzoo.errors import SpecError
from ditzoo.hub import parse
from ditzoo.hub_errors import told

if TYPE_CHECKING:
    from ditzoo.assemble import Model


def push(
    model: Model,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload a model of ditzoo",
    dtype: Any = None,
    max_shard_size: int | str | None = "5GB",
    grid: str | Path | None = None,
    license: str | None = None,
) -> str:
    """Upload a model to `repo_id` (made if it is not there) and return the commit's address.

    `license` is what the card says where the spec's card says nothing; a model without either is not published. `grid` is a picture of
    samples for the card. The rest is as in `HfApi.upload_folder`. Raises `SpecError` or `HubError`.
    """
    from huggingface_hub import HfApi

    from ditzoo.assemble import save

    repo, revision = parse(repo_id, revision)
    spec = model.spec
    stated = spec.card.license or license
    if not stated:
        raise SpecError(
            f"'{spec.name}' has no licence, so nobody could use it; say one with license='apache-2.0' (--license), or in card.license"
        )
    spec = spec.model_copy(update={"card": spec.card.model_copy(update={"license": stated})})
    with tempfile.TemporaryDirectory() as folder:
        save(model, spec, Path(folder), dtype=dtype, max_shard_size=max_shard_size, grid=Path(grid) if grid else None, repo=repo)
        api = HfApi(token=token)
        with told(f"hf-hub:{repo}", repo, revision, verb="publish"):
            api.create_repo(repo, private=private, exist_ok=True)
            if revision and not create_pr:
                api.create_branch(repo, branch=revision, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
                delete_patterns=["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"],
            )
    return str(done.commit_url)
