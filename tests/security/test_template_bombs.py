"""Templates that would fill the memory or never end: each is refused in words, and soon.

Most of a template's operations are single steps of native code, which nothing stops: what counts
is that they are refused before they begin. The server is asked for a sound model after each.
"""

import resource
import time
from collections.abc import Iterator

import pytest

from opta_lmx.backends.frames import Load
from opta_lmx.backends.protocol import LoadError
from opta_lmx.backends.text.template import load_template
from opta_lmx.core.types import Message
from opta_lmx.models.store import ModelStore
from tests.support.process import ServerProcess, running_server
from tests.support.tiny import write_gguf

SOON_S = 20.0
"""A bomb's whole way; the bounds are much nearer, machines that test are slow."""
GROWTH_BYTES = 1 << 30
_NEST = "{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
_NESTED = "{% set n = namespace(a=[1], b=[1]) %}" + _NEST
_ROWS = "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}"

BOMBS = {
    "output": _ROWS,
    "output of a macro": "{% macro m() %}" + _ROWS + "{% endmacro %}{{ m() }}",
    "output that is kept": "{% set a %}" + _ROWS + "{% endset %}",
    "output for a filter": "{% filter upper %}" + _ROWS + "{% endfilter %}",
    "output of callers": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    "{% call m() %}{% call m() %}" + _ROWS + "{% endcall %}{% endcall %}",
    "words in loops": "{% set a %}{% for i in range(99999) %}{% for j in range(99999) %}words"
    "{% endfor %}{% endfor %}{% endset %}",
    "empty loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "slow rounds": "{% for i in range(99999) %}{{ range(99999)|list|sort|unique|list|length }}"
    "{% endfor %}",
    "doubling": "{% set n = namespace(a='x' * 1000) %}"
    "{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "adding": "{% set n = namespace(a='x' * 1000) %}"
    "{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "hoarding": "{% set n = namespace(a=[]) %}"
    "{% for i in range(99999) %}{% set n.a = n.a + ['x' * 1000000 ~ i] %}{% endfor %}",
    "slices": "{% set n = namespace(a=[], b='x' * 1000000) %}"
    "{% for i in range(99999) %}{% set n.a = n.a + [n.b[i:]] %}{% endfor %}",
    "squaring": "{% set n = namespace(a=3) %}"
    "{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}{{ n.a }}",
    "nested, written": _NESTED + "{{ n.a }}",
    "nested, as JSON": _NESTED + "{{ n.a | tojson }}",
    "nested, compared": _NESTED + "{{ n.a == n.b }}",
    "nested, tested": _NESTED + "{{ [n.a] | select('eq', n.b) | list }}",
    "calling itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "calling itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(40) }}",
    "recursive loop": "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "mapped padding": "{{ range(99999) | map('center', 1000000) | list }}",
    "mapped and joined": "{{ range(99999) | map('center', 1000000) | join }}",
    "center": "{{ 'x' | center(99999999) }}",
    "ljust": "{{ 'x'.ljust(99999999) }}",
    "percent": "{{ '%99999999d' % 1 }}",
    "many percents": "{{ ('%99999s' * 100000) | format(1) }}",
    "named percents": "{{ ('%(a)s' * 200000) % {'a': 'x' * 1000000} }}",
    "braces": "{{ ('{0}' * 300000).format('x' * 1000000) }}",
    "wide braces": "{{ ('{0:{1}}' * 100000).format('x', 999999) }}",
    "replace": "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
    "replace nothing": "{{ ('x' * 1000000).replace('', 'y' * 1000000) }}",
    "join": "{{ ('y' * 1000000) | join('x' * 1000000) }}",
    "join of text": "{{ ('x' * 1000000).join('y' * 1000000) }}",
    "tabs": "{{ ('\\t' * 1000000).expandtabs(1000000) }}",
    "translate": "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "indent": "{{ ('\\n' * 1000000) | indent(1000000) }}",
    "tojson": "{{ ([0] * 1000000) | tojson(indent=1000000) }}",
    "sum": "{{ ([[0] * 1000000] * 1000) | sum(start=[]) }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "wordwrap": "{{ ('x ' * 500000) | wordwrap(1, wrapstring='y' * 1000000) }}",
    "searching back": "{{ ('a' * 1000000).rfind('b' + 'a' * 500000) }}",
    "stripping": "{{ ('x' * 1000000).strip('y' * 999999 + 'x') }}",
    "striptags": "{{ ('<!---->' * 140000) | striptags }}",
    "while compiling": "{% autoescape 'x' | center(999999999) %}{% endautoescape %}",
    "brackets": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "tags": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "blanks": "{{" + " " * 900_000,
}
SERVED = (
    *("output", "output of a macro", "output that is kept", "doubling", "hoarding", "empty loops"),
    *("calling itself", "calling itself twice", "nested, written", "nested, compared"),
    *("mapped padding", "many percents", "named percents", "replace", "join", "indent"),
)
"""Those that are given to a server, at its load."""
LATER = {name: "{% if messages | length > 4 %}" + BOMBS[name] + "{% endif %}ok" for name in SERVED}
"""Those go off in a longer conversation alone: the load shows nothing of them."""


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_refused_at_load(name: str) -> None:
    began, before = time.monotonic(), peak_bytes()
    with pytest.raises(LoadError, match="chat template"):
        load_template(_spec(BOMBS[name]), None, lambda _: False, bos_token="", eos_token="")
    assert time.monotonic() - began < SOON_S
    assert peak_bytes() - before < GROWTH_BYTES


def test_a_sound_template_is_loaded_whoever_it_refuses() -> None:
    for source in ("{{ messages[0].content }}", "{{ raise_exception('two turns, please') }}"):
        made = load_template(_spec(source), None, lambda _: False, bos_token="", eos_token="")
        assert made.source_kind == "config"


def test_a_long_conversation_has_room_in_proportion() -> None:
    source = "{% for m in messages %}{% for o in messages %}{{ o.content }}{% endfor %}{% endfor %}"
    spec, turn = _spec("{% set all %}" + source + "{% endset %}{{ all | length }}"), "a" * 20_000
    made = load_template(spec, None, lambda _: False, bos_token="", eos_token="")
    # More than the bound of a short one, and quadratic: as some published templates are.
    assert made.render([Message("user", turn)] * 140) == str(140 * 140 * 20_000)


def peak_bytes() -> int:
    """The most memory this process ever held (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _spec(template: str) -> Load:
    return Load("bomb", "gguf", template=template)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server whose store holds the bombs, each twice, and a sound model."""
    home = tmp_path_factory.mktemp("bombs")
    store = ModelStore(home / "models")
    store.sweep()
    templates = {f"now-{name}": BOMBS[name] for name in SERVED}
    templates |= {f"later-{name}": source for name, source in LATER.items()}
    templates["good"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name, template in templates.items():
        source = home / "sources" / f"{flat(name)}.gguf"
        source.parent.mkdir(exist_ok=True)
        write_gguf(source, template=template)
        store.add(source, flat(name))
    env = {"LMX_ENGINE__THREADS": "1", "LMX_ENGINE__MAX_RESTARTS": "0"}
    with running_server(home, "--model", "good", **env) as running:
        yield running


def flat(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def ask(server: ServerProcess, name: str, turns: int = 1) -> tuple[int, str, float]:
    """The status, the error's code, and the seconds that it took."""
    roles = ["user", "assistant"] * turns
    messages = [{"role": role, "content": "a"} for role in roles[:turns]]
    body = {"model": flat(name), "messages": messages}
    began = time.monotonic()
    url = f"{server.url}/v1/chat/completions"
    reply = server.http.post(url, json={**body, "max_tokens": 2}, timeout=60)
    code = reply.json()["error"]["code"] if reply.status_code >= 400 else ""
    return reply.status_code, code, time.monotonic() - began


@pytest.mark.parametrize("name", SERVED)
def test_a_server_survives_a_bomb_at_load(server: ServerProcess, name: str) -> None:
    status, code, took_s = ask(server, f"now-{name}")
    assert (status, code) == (400, "load_failed")
    assert took_s < SOON_S
    assert ask(server, "good")[0] == 200


@pytest.mark.parametrize("name", sorted(LATER))
def test_a_worker_survives_a_bomb_in_a_request(server: ServerProcess, name: str) -> None:
    model = f"later-{name}"
    assert ask(server, model)[0] == 200
    worker = server.models()[flat(model)]["pid"]
    status, code, took_s = ask(server, model, turns=5)
    assert status == 400, code
    assert took_s < SOON_S
    assert ask(server, model)[0] == 200
    assert server.models()[flat(model)]["pid"] == worker
    assert ask(server, "good")[0] == 200
