"""Models of the Hugging Face hub by their names: OWNER/NAME, or OWNER/NAME@REVISION."""

import functools
from fnmatch import fnmatch
from pathlib import Path

from clower_jax.interop import weight_files
from clower_jax.utils.folder_files import reason
from input_pipeline.utils.hub_names import is_name, split

# What is read of a model beside its weights, in the folder itself or one below (sentence-transformers).
SMALL_FILES = ('*.json', '*.txt', '*.md')
WEIGHTS = ('model*.safetensors', 'pytorch_model*.bin')  # those of the first kind that there is


def base_name(source: str | Path) -> str:
    """What a source is called: the last part of its path, or of its name on the hub, without a revision."""
    repository, revision = split(source)
    return repository.rpartition('/')[2] if revision else Path(source).name


def local_folder(source: str | Path) -> Path:
    """The folder of a source: itself where it is a path, else that in which the hub's cache holds the model,
    fetched where need be.

    Raises ValueError where the hub has no such model or revision, or cannot be reached and the cache does not
    hold it.
    """
    return _fetch(str(source)) if is_name(source) else Path(source)


def pinned(source: str) -> str:
    """A name with the revision that it now stands for: 'OWNER/NAME@<40 hex digits>'. Any other source as it
    is. Raises ValueError as `local_folder`."""
    if not is_name(source):
        return source
    # The cache has a folder for each commit, called by it.
    return f'{split(source)[0]}@{local_folder(source).name}'


def push(folder: str | Path, repository: str, private: bool = False) -> str:
    """Uploads a folder that `export` wrote, as the model OWNER/NAME, which is made where there is none;
    returns the address of the commit.

    Raises ValueError where the folder is no model, or the hub refuses.
    """
    if not weight_files.has_weights(Path(folder)):
        raise ValueError(f'{folder} is no exported model: make one with python -m clower_jax.convert export')
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder).commit_url)
    except (HfHubHTTPError, huggingface_hub.errors.HFValidationError) as error:
        raise ValueError(
            f'{repository} cannot be written on {api.endpoint} ({reason(error)}): log in with "hf auth '
            'login", or set HF_TOKEN'
        ) from error


@functools.lru_cache
def _fetch(source: str) -> Path:
    import huggingface_hub  # with its client for HTTP, which a folder needs not
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision = split(source)
    api = huggingface_hub.HfApi()
    try:
        info = api.model_info(repository, revision=revision)
    except HfHubHTTPError as error:
        raise ValueError(
            f'{source!r} is neither a folder here nor a model on {api.endpoint} ({reason(error)}): check the '
            'name; a private or gated model wants "hf auth login" or HF_TOKEN'
        ) from error
    except Exception as unreachable:  # whatever the transport of the hub's library raises
        try:
            return Path(api.snapshot_download(repository, revision=revision, local_files_only=True))
        except OSError as error:
            raise ValueError(
                f'{source!r} is no folder here, {api.endpoint} cannot be reached ({reason(unreachable)}), '
                'and the cache does not hold it: give a folder'
            ) from error
    names = _needed([file.rfilename for file in info.siblings or []])
    try:
        return Path(api.snapshot_download(repository, revision=revision, allow_patterns=names))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f'{source} was not fetched from {api.endpoint} ({reason(error)}): try again'
        ) from error


def _needed(names: list[str]) -> list[str]:
    """Of a model's files those that are read here."""

    def of(*patterns: str) -> list[str]:
        return [name for name in names if any(fnmatch(Path(name).name, pattern) for pattern in patterns)]

    return of(*SMALL_FILES) + next(filter(None, map(of, WEIGHTS)), [])
