"""Whether a pre-trained model is at hand, before libraries try for minutes to fetch it."""

from __future__ import annotations

from pathlib import Path

from rearec.errors import UserError

__all__ = ["is_local"]

# Seconds that the Hub gets to say whether it has a model.
PATIENCE = 10.0


def is_local(name: str) -> bool:
    """Whether a model is to be read from this machine alone: a folder, or the Hub's cache for want of the Hub.

    Raises:
        UserError: it is in no folder and not on the Hub, or the Hub cannot be asked and its cache lacks it.
    """
    if Path(name).is_dir():
        return True
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except HFValidationError:
        raise UserError(f"{name}: cannot be loaded: there is no such folder, and it is no name of the Hub") from None
    except OfflineModeIsEnabled:
        why = "HF_HUB_OFFLINE=1 forbids to fetch it"
    except Exception as error:
        # What its connections raise differs between its releases.
        if isinstance(error, HfHubHTTPError) and getattr(error.response, "status_code", 500) in (401, 403, 404):
            raise UserError(
                f"{name}: cannot be loaded: there is no such folder, and no such model on the Hugging Face Hub, or not "
                "for you"
            ) from None
        why = f"the Hugging Face Hub cannot be reached ({type(error).__name__})"
    else:
        return False
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    raise UserError(
        f"{name}: cannot be loaded: there is no such folder, the Hub's cache here lacks it, and {why}; give a folder "
        "that holds the model, or fetch it where there is a network and read the cache with HF_HUB_OFFLINE=1"
    )
