"""Security profiles, as data: what each asks for, and what the settings lack of it."""

import ipaddress
from collections.abc import Iterator
from typing import Literal

import msgspec

from opta_lmx.config.sections.security import ProfileName
from opta_lmx.config.sections.server import is_loopback
from opta_lmx.config.settings import Settings, plain_name
from opta_lmx.core.errors import LmxError, invalid

Reach = Literal["loopback", "private", "any"]
"""Where a server may listen: on loopback; there or on one private address; anywhere."""
Use = Literal["refused", "optional", "required"]
Enforced = Literal["start", "request", "operator"]
"""When a rule is held to: before the server starts, at each request, or by nobody but you."""

_KEYS = "keys"
_LISTENS: dict[Reach, str] = {
    "loopback": "on loopback only",
    "private": "on loopback or one private address",
    "any": "on any address",
}


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What one profile asks for.

    Attributes:
        purpose: for whom it is, in words.
        listens: where the server may listen.
        keys: callers must show a key.
        key_characters: fewest characters of a key in the configuration.
        full_keys: keys that may do everything (`server.api_keys`) may be used.
        host_check: the Host header must name this server.
        origin_check: web pages must come from a host of this server.
        proxies: whether `security.trusted_proxies` may or must be set.
        tls: who encrypts, in words.
        own_tls: a server that encrypts by itself needs no proxy, and may listen on any address.
        remote_admin: the scope `admin` may be used from other machines.
        auth_failures: most that `security.auth_failures_per_minute` may be.
    """

    purpose: str
    listens: Reach
    keys: bool
    key_characters: int
    full_keys: bool
    host_check: bool = True
    origin_check: bool = True
    proxies: Use
    tls: str
    own_tls: bool = False
    remote_admin: bool
    auth_failures: int


PROFILES: dict[ProfileName, Profile] = {
    "loopback": Profile(
        purpose="Programs on this machine only.",
        listens="loopback",
        keys=False,
        key_characters=1,
        full_keys=True,
        proxies="refused",
        tls="not needed: nothing leaves this machine",
        remote_admin=False,
        auth_failures=1000,
    ),
    "lan": Profile(
        purpose="Machines of a private network whose every member may read along.",
        listens="any",
        keys=True,
        key_characters=16,
        full_keys=True,
        proxies="optional",
        tls="as you like: without it, whoever can listen on the network reads keys and prompts",
        remote_admin=True,
        auth_failures=200,
    ),
    "trusted-gateway": Profile(
        purpose="A gateway of your own, which alone can reach this server.",
        listens="any",
        keys=True,
        key_characters=16,
        full_keys=True,
        proxies="required",
        tls="TLS ends at the gateway; the way from there to here is private, or encrypted too",
        remote_admin=True,
        auth_failures=200,
    ),
    "internet": Profile(
        purpose="Anybody may try: a proxy that speaks TLS stands in front, or the server does.",
        listens="private",
        keys=True,
        key_characters=32,
        full_keys=False,
        proxies="required",
        tls="TLS or mTLS ends here, or at a proxy on this machine or a private network",
        own_tls=True,
        remote_admin=False,
        auth_failures=20,
    ),
}


class Rule(msgspec.Struct, frozen=True):
    """One rule of a profile beside what is set.

    Attributes:
        name: of the rule.
        asks: what the profile asks for.
        found: what the settings say.
        enforced: when that is held to.
        setting: what to change, dotted.
        missing: what is lacking and how to mend it; None where nothing is.
    """

    name: str
    asks: str
    found: str
    enforced: Enforced
    setting: str
    missing: str | None = None


def profile_of(settings: Settings) -> Profile:
    """The profile in force."""
    return PROFILES[settings.security.profile]


def keys_required(settings: Settings) -> bool:
    """Whether callers must say who they are, also while there is no key: see what else tells."""
    by_certificate = settings.tls.mapping or settings.tls.gateway
    beyond = not is_loopback(settings.server.host)
    by_token = settings.oidc.issuer is not None
    return profile_of(settings).keys or beyond or bool(by_certificate) or by_token


def rules(settings: Settings, stored_keys: int, name: ProfileName | None = None) -> list[Rule]:
    """Every rule of a profile beside what is set.

    Args:
        settings: the whole tree.
        stored_keys: how many keys outside the configuration open the door now.
        name: of a profile; None: the one in force.
    """
    name = name or settings.security.profile
    # As if it were in force: only then does a sentence tell what choosing it would take.
    chosen = settings.security.model_copy(update={"profile": name})
    return list(_rules(settings.model_copy(update={"security": chosen}), stored_keys))


def missing(settings: Settings, stored_keys: int) -> list[str]:
    """All that is lacking for the profile in force, each in a sentence; empty: it is met."""
    found = (rule.missing for rule in rules(settings, stored_keys))
    return [sentence for sentence in found if sentence is not None]


def check(settings: Settings, stored_keys: int) -> None:
    """Refuse to go on while the profile in force is not met.

    Raises:
        LmxError: INVALID_REQUEST with every sentence of `missing`; `keys_required` where keys
            are among what is lacking, else `profile_not_met`; `param` the first setting.
    """
    lacking = [rule for rule in rules(settings, stored_keys) if rule.missing is not None]
    if lacking:
        told = " ".join(rule.missing or "" for rule in lacking)
        keys = any(rule.name == _KEYS for rule in lacking)
        raise _not_met(settings.security.profile, told, lacking[0].setting, keys=keys)


def _not_met(name: str, told: str, setting: str, *, keys: bool) -> LmxError:
    message = f"The security profile '{name}' is not met. {told}"
    return invalid(message, param=setting, code="keys_required" if keys else "profile_not_met")


def _rules(settings: Settings, stored_keys: int) -> Iterator[Rule]:
    profile = profile_of(settings)
    yield _listens(settings, profile)
    yield _keys(settings, stored_keys)
    yield _key_length(settings, profile)
    yield _full_keys(settings, profile)
    yield _host_check(settings, profile)
    yield _origin_check(settings, profile)
    yield _proxies(settings, profile)
    yield _tls(settings, profile)
    yield _admin(profile)
    yield _auth_failures(settings, profile)


def _listens(settings: Settings, profile: Profile) -> Rule:
    host, name = settings.server.host, settings.security.profile
    lacking = None
    if profile.listens == "loopback" and not is_loopback(host):
        lacking = (
            f"server.host is {host}, which reaches beyond this machine: set security.profile to "
            "lan, trusted-gateway or internet, or server.host to 127.0.0.1."
        )
    elif profile.listens == "private" and not is_private(host) and not _alone(settings, profile):
        lacking = (
            f"server.host is {host}, and the profile {name} listens {_LISTENS['private']}: set "
            "server.host to 127.0.0.1, or to the address that the proxy reaches; or encrypt here, "
            "with tls.certificate and tls.key."
        )
    asks = _LISTENS[profile.listens] + (", on any with TLS here" if profile.own_tls else "")
    return Rule("listens", asks, host, "start", "server.host", lacking)


def _alone(settings: Settings, profile: Profile) -> bool:
    """Whether no proxy needs to stand in front, because this server encrypts."""
    return profile.own_tls and settings.tls.enabled


def is_private(host: str) -> bool:
    """True for `localhost` and single addresses that the internet does not route."""
    if is_loopback(host):
        return True
    address = _address(host)
    if address is None or address.is_unspecified or address.is_multicast:
        return False
    return not address.is_global


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _keys(settings: Settings, stored_keys: int) -> Rule:
    count = len(settings.all_keys()) + stored_keys
    needed = keys_required(settings)
    lacking = None
    others = [("known certificate", "tls.mapping")] if settings.tls.mapping else []
    others += [("token", "oidc.issuer")] if settings.oidc.issuer else []
    if needed and not count and not others:
        lacking = (
            "Callers must show a key, and there is none: make one with `opta-lmx keys create "
            "--name NAME`, or write one into access.keys."
        )
    asks, found = "a key with each request", _counted(count)
    if others:
        ways = " or a ".join(["key", *(way for way, _ in others)])
        asks = f"a {ways} with each request"
        found = ", ".join([found, *(setting for _, setting in others)])
    elif not needed:
        asks = "a key as soon as there is one"
    return Rule(_KEYS, asks, found, "request", "access.keys", lacking)


def _counted(keys: int) -> str:
    return "1 key" if keys == 1 else f"{keys or 'no'} keys"


def _key_length(settings: Settings, profile: Profile) -> Rule:
    plain = [(plain_name(at), key) for at, key in enumerate(settings.server.api_keys)]
    named = [(one.name, one.key) for one in settings.access.keys]
    lengths = {name: len(key.get_secret_value()) for name, key in [*plain, *named]}
    short = [name for name, length in lengths.items() if length < profile.key_characters]
    lacking = None
    if short:
        lacking = (
            f"Keys shorter than {profile.key_characters} characters can be guessed "
            f"({', '.join(short)}): put random ones into server.api_keys and access.keys, or make "
            "them with `opta-lmx keys create`."
        )
    least = f"{profile.key_characters} characters or more in the configuration"
    asks = "any length" if profile.key_characters == 1 else least
    found = f"{min(lengths.values())} or more" if lengths else "none there"
    return Rule("length of keys", asks, found, "start", "access.keys", lacking)


def _full_keys(settings: Settings, profile: Profile) -> Rule:
    count = len(settings.server.api_keys)
    lacking = None
    if count and not profile.full_keys:
        lacking = (
            "Keys of server.api_keys may do everything: give each caller one with scopes "
            "(`opta-lmx keys create`, or access.keys), and empty server.api_keys."
        )
    asks = "may be used" if profile.full_keys else "none: every key has scopes"
    found = _counted(count)
    return Rule("server.api_keys", asks, found, "start", "server.api_keys", lacking)


def _host_check(settings: Settings, profile: Profile) -> Rule:
    server = settings.server
    address = _address(server.host)
    lacking = None
    if profile.host_check and not server.allowed_hosts and address and address.is_unspecified:
        lacking = (
            f"server.host is {server.host}, which says nothing of how callers name this server: "
            "set server.allowed_hosts to the names and addresses in their URLs, or server.host "
            "to one address."
        )
    asks = "Host must name this server" if profile.host_check else "none"
    found = ", ".join(dict.fromkeys(["localhost", server.host, *server.allowed_hosts]))
    return Rule("host check", asks, found, "request", "server.allowed_hosts", lacking)


def _origin_check(settings: Settings, profile: Profile) -> Rule:
    asks = "web pages of these hosts only" if profile.origin_check else "none"
    found = ", ".join(settings.server.allowed_hosts) or "no others"
    return Rule("origin check", asks, found, "request", "server.allowed_hosts")


def _proxies(settings: Settings, profile: Profile) -> Rule:
    trusted, name = settings.security.trusted_proxies, settings.security.profile
    lacking = None
    if trusted and profile.proxies == "refused":
        lacking = (
            f"A proxy in front lets other machines in, which the profile {name} is not for: "
            "set security.profile to trusted-gateway or internet, or empty "
            "security.trusted_proxies."
        )
    elif not trusted and profile.proxies == "required" and not _alone(settings, profile):
        lacking = (
            "Without security.trusted_proxies every caller has the address of the proxy in "
            "front: set it to the addresses that the proxy connects from."
        )
    asks = profile.proxies + (", unless with TLS here" if profile.own_tls else "")
    found = ", ".join(trusted) or "none"
    return Rule("trusted proxies", asks, found, "start", "security.trusted_proxies", lacking)


def _tls(settings: Settings, profile: Profile) -> Rule:
    asked = settings.tls
    found = "none here; what stands in front is not visible"
    if asked.enabled:
        found = f"here; certificates of clients: {asked.client_certificates}"
        if asked.gateway:
            found += "; a gateway tells of its clients'"
    return Rule("TLS", profile.tls, found, "operator", "tls.certificate")


def _admin(profile: Profile) -> Rule:
    asks = "with the scope admin"
    if not profile.remote_admin:
        asks += ", from this machine only"
    return Rule("administration", asks, "by key", "request", "security.profile")


def _auth_failures(settings: Settings, profile: Profile) -> Rule:
    limit = settings.security.auth_failures_per_minute
    lacking = None
    if limit > profile.auth_failures:
        lacking = (
            f"security.auth_failures_per_minute is {limit}: set it to "
            f"{profile.auth_failures} at most."
        )
    return Rule(
        "wrong keys",
        f"at most {profile.auth_failures} a minute and address",
        str(limit),
        "request",
        "security.auth_failures_per_minute",
        lacking,
    )
