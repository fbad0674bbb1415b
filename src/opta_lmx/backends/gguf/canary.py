"""Asks a model that llama.cpp has just loaded for one token, before anybody else does."""

from http.client import HTTPException
from math import isfinite
from typing import Any

from opta_lmx.backends.gguf.completion import EngineAnswerError
from opta_lmx.backends.gguf.http import call
from opta_lmx.backends.protocol import CANARY_FAILED, LoadError

_PROMPT_TOKENS = 2
_SLOT = 0


def try_once(socket: str, vocabulary: int, lora: list[dict[str, Any]] | None = None) -> None:
    """Raise LoadError `canary_failed` unless the model makes a token, and of finite probability.

    `lora` says what each adapter counts; None where the server has none.
    The slot is empty again afterwards. llama.cpp itself runs any weights, and takes some token
    from numbers that are none. It may take as long as the load may in all, which the front bounds
    (`engine.load_timeout_s`): the first token reads all weights, off a slow disk if need be.
    """
    body = {
        "prompt": list(range(min(_PROMPT_TOKENS, max(1, vocabulary)))),
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0.0,
        "cache_prompt": False,
        "id_slot": _SLOT,
        **({} if lora is None else {"lora": lora}),
    }
    try:
        answer: dict[str, Any] = call(socket, "/completion", body, bounded=False)
        call(socket, f"/slots/{_SLOT}?action=erase", {}, bounded=False)
    except OSError as error:  # it is gone: that alone does not say that the model is broken
        raise LoadError(f"the model was not tried out: {error}") from error
    except (EngineAnswerError, HTTPException) as error:
        raise LoadError(f"the model does not run: {error}", CANARY_FAILED) from error
    chosen: list[dict[str, Any]] = answer.get("completion_probabilities") or []
    # JSON has no word for what is no number; a null stands for it.
    if any(token["logprob"] is None or not isfinite(token["logprob"]) for token in chosen):
        message = "the weights give no finite probabilities; they may be corrupt"
        raise LoadError(message, CANARY_FAILED)
