"""What the hub's client raises, told in one sentence with the way out: gated, absent, offline, cut off. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditzoo.errors import HubError, SpecError, listed, suggest

CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "h11")


@dataclass(frozen=True)
class Access:
    """How the hub is reached; the names and meanings of `from_pretrained`."""

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


@contextmanager
def told(
    place: str, repo: str, revision: str | None = None, access: Access | None = None, *, what: str = "", verb: str = "fetch"
) -> Iterator[None]:
    """Turn the client's exceptions into one `HubError` with the way out."""
    from huggingface_hub import constants, errors

    access = access or Access()
    offline = access.local_files_only or constants.HF_HUB_OFFLINE
    again = "what arrived is kept out, so try again" if verb == "fetch" else "try again"
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(f"{place} is gated: {_gate(error, repo)}") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision '{revision}'{_revisions(repo, revision, access)}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"no repository '{repo}' on the hub, or it is private and your token cannot see it; check the spelling, "
            f"or log in with 'hf auth login'"
        ) from error
    except errors.HFValidationError as error:
        raise SpecError(f"'{repo}' is no repository name: owner/name is expected, as in hf-hub:facebook/DiT-XL-2-256") from error
    except errors.IncompleteSnapshotError as error:
        raise HubError(
            f"{place} is only partly in the cache, and the hub {'may not be asked (offline)' if offline else 'cannot be reached'}; "
            f"fetch the rest with 'ditzoo pull hf-hub:{repo}' while online"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if offline:
            raise HubError(
                f"{place} is not in the cache, and the hub may not be asked (offline); "
                f"fetch it with 'ditzoo pull hf-hub:{repo}' while online"
            ) from error
        raise HubError(f"cannot reach the hub for {place}: {_root(error)}; check the network, or HF_ENDPOINT") from error
    except errors.HfHubHTTPError as error:
        raise HubError(
            f"the hub refused to {verb} {what or place}: {_root(error)}; check your token ('hf auth whoami') and its rights"
        ) from error
    except Exception as error:  # a cut connection, a full disk; other exceptions than the client's and the system's are not ours to tell
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in CLIENTS:
            raise
        raise HubError(f"could not {verb} {what or 'files'} of {place}: {_root(error)}; {again}") from error


def _revisions(repo: str, revision: str | None, access: Access) -> str:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo, token=access.token)
    except Exception:  # only an aid: whatever fails here, the error stands
        return "; see its page for branches and tags"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"{suggest(revision, names)} (branches and tags: {listed(names)}; a commit is 40 hex digits)"


def _gate(error: Any, repo: str) -> str:
    page = f"https://huggingface.co/{repo}"
    if getattr(error.response, "status_code", 401) == 403:
        return f"your token has no access; ask for it at {page}, or use the token of an account that has it"
    return f"no token was sent; accept the terms at {page}, then log in with 'hf auth login' or set HF_TOKEN"


def _root(error: BaseException) -> str:
    """The first line of the innermost cause that says something."""
    while (cause := error.__cause__) is not None and str(cause):
        error = cause
    line = (str(error) or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {line}"
