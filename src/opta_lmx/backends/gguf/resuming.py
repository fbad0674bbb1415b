"""Which answers llama.cpp can go on with after they were interrupted. Pure."""

from opta_lmx.backends.frames import Submit


def resume_refusal(request: Submit, *, unshown: bool = False) -> str:
    """Why a request cannot go on after `generated`; empty when it can.

    llama.cpp starts its draws and its grammars anew with every request. `unshown`: that ends
    within a character, whose other bytes llama.cpp would not show, as it guesses them ahead.
    """
    if not request.generated:
        return ""
    if request.grammar:
        return "an answer that keeps to a grammar cannot be resumed on llama.cpp"
    if request.sampling.seed is not None and request.sampling.temperature != 0:
        return "a seeded answer cannot be resumed on llama.cpp"
    if unshown:
        return "an answer cannot be resumed within a character beside a draft model"
    return ""
