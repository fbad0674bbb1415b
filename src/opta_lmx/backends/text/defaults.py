"""Chat templates for models that bring none, chosen by the turn markers their vocabulary knows."""

from collections.abc import Callable

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' if add_generation_prompt -}}
"""

# Gemma's turns know two speakers only, so neighbouring turns of one speaker share one marker.
GEMMA = """\
{%- set last = namespace(speaker='') -%}
{%- for message in messages -%}
{%- set speaker = 'model' if message.role == 'assistant' else 'user' -%}
{%- if speaker == last.speaker -%}
{{- '\\n\\n' -}}
{%- else -%}
{{- ('<end_of_turn>\\n' if last.speaker else '') + '<start_of_turn>' + speaker + '\\n' -}}
{%- endif -%}
{%- set last.speaker = speaker -%}
{{- message.content | trim -}}
{%- endfor -%}
{{- '<end_of_turn>\\n' if last.speaker -}}
{{- '<start_of_turn>model\\n' if add_generation_prompt -}}
"""

ROLES = """\
{%- for message in messages -%}
{{- message.role | capitalize + ': ' + message.content | trim + '\\n\\n' -}}
{%- endfor -%}
{{- 'Assistant:' if add_generation_prompt -}}
"""


def default_template(has_token: Callable[[str], bool]) -> str:
    """Return the source of the documented default: ChatML, else Gemma's turns, else `Role: text`.

    None of them writes a beginning-of-text token: the tokenizer adds it where its own
    configuration says so.

    Args:
        has_token: whether the vocabulary holds this text as one token.
    """
    if has_token("<|im_start|>"):
        return CHATML
    if has_token("<start_of_turn>"):
        return GEMMA
    return ROLES
