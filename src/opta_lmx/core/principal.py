"""Who asks: the owner of a key, what that owner may use, and the one caller behind a request."""

from enum import IntEnum, StrEnum

import msgspec


class Lane(IntEnum):
    """The class of a request; a lower number goes before a higher one."""

    INTERACTIVE = 0
    AGENT = 1
    BACKGROUND = 2


class Scope(StrEnum):
    """What a key may be used for; a route asks for one of them, or for none."""

    INFERENCE = "inference"
    AGENTS = "agents"
    SKILLS = "skills"
    ADMIN = "admin"
    METRICS = "metrics"


class Budgets(msgspec.Struct, frozen=True):
    """What one key may use; None bounds nothing.

    In tokens, `prompt_tokens` bounds one request's prompt, `prompt_tokens_per_minute` all prompts
    that were admitted in any 60 s, `max_tokens` one answer. `kv_bytes` bounds the caches that its
    requests hold while they run, on one model.
    """

    prompt_tokens: int | None = None
    prompt_tokens_per_minute: int | None = None
    max_tokens: int | None = None
    kv_bytes: int | None = None


class Quotas(msgspec.Struct, frozen=True):
    """What one key, or all keys of one tenant together, may use; None bounds nothing.

    Counts are of any 60 s (`per_minute`) and any 24 h (`per_day`), tokens are in tokens.
    `concurrency` bounds requests in flight, over all models.
    """

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    prompt_tokens_per_minute: int | None = None
    prompt_tokens_per_day: int | None = None
    output_tokens_per_minute: int | None = None
    output_tokens_per_day: int | None = None
    agent_runs_per_minute: int | None = None
    agent_runs_per_day: int | None = None
    skill_calls_per_minute: int | None = None
    skill_calls_per_day: int | None = None
    concurrency: int | None = None


class Principal(msgspec.Struct, frozen=True):
    """The owner of a key. `key` is its name, never the secret; `lane` the best class it may use.

    `weight` is its share against other keys of its lane; `max_running` bounds how many of its
    requests run at once on one model (None: as many as there is room for). `scopes` are what it
    may be used for, `models` the names of models it may use, with `*` for any run of characters
    (None: every model).
    """

    tenant: str = "default"
    key: str = "anonymous"
    lane: Lane = Lane.INTERACTIVE
    weight: float = 1.0
    max_running: int | None = None
    budgets: Budgets = Budgets()
    scopes: frozenset[Scope] = frozenset(Scope)
    models: tuple[str, ...] | None = None


class Caller(msgspec.Struct, frozen=True):
    """One request's asker: a client of a key.

    `client` only divides its owner's share: it is what the caller says of itself. `lane` is the
    principal's or a lower one. `session` names the conversation, where the caller tells.
    """

    principal: Principal = Principal()
    client: str = ""
    lane: Lane = Lane.INTERACTIVE
    session: str | None = None
