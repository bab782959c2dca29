"""Parts of pages that are made of the code: ``<!-- insert: NAME [ARGUMENT] -->``."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator

import llm_sched_env as lse
from research.site.docstrings import as_markdown
from research.site.examples import example_list

_MARK = re.compile(r"^<!-- insert: ([\w-]+)(?: (\S+))? -->$", re.MULTILINE)


def with_insertions(text: str) -> str:
    """The Markdown of a page with its parts that are made of the code; KeyError for others."""

    def inserted(mark: re.Match[str]) -> str:
        return _PARTS[mark[1]](mark[2] or "")

    return _MARK.sub(inserted, text)


def _environment(name: str) -> str:
    """The docstring of a registered environment's class."""
    return as_markdown(load_env_creator(str(gym.spec(name).entry_point)).__doc__ or "")


def _policies(_: str) -> str:
    from llm_sched_env.policies.registry import registered_policies

    rows = [
        f"| `{name}` | {', '.join(f'`{alias}`' for alias in entry.aliases)} "
        f"| {entry.description} | {entry.source} |"
        for name, entry in registered_policies().items()
    ]
    return "\n".join(["| name | alias | what it does | source |", "|---|---|---|---|", *rows])


def _instances(_: str) -> str:
    rows = []
    for name in lse.presets.NAMED_INSTANCES:
        instance = lse.presets.resolve_instance(name)
        classes = ", ".join(c.name for c in instance.classes[:3])
        more = ", ..." if instance.n_classes > 3 else ""
        value = lse.plan(instance).value
        rows.append(f"| `{name}` | {instance.n_classes}: {classes}{more} | {value:.2f} |")
    return "\n".join(["| instance | classes | R* per GPU and second |", "|---|---|---:|", *rows])


_SYMBOLS = (
    ("$B$", "instance.hardware.batch_slots"),
    ("$C$", "instance.hardware.chunk_tokens"),
    (
        r"$\alpha, \beta, \gamma$",
        "instance.hardware.alpha, instance.hardware.beta, instance.hardware.gamma",
    ),
    (r"$\tau_{mix}$", "instance.hardware.tau_mixed"),
    (r"$\lambda_i$", "instance.arrival_rates"),
    ("$P_i$", "instance.prompt_tokens"),
    ("$D_i$", "instance.output_tokens"),
    (r"$\theta_i$", "instance.patience_rates"),
    (r"$\mu_{p,i}$", "instance.prefill_rates"),
    (r"$\mu_{m,i}$", "instance.mixed_decode_rates"),
    (r"$\mu_{s,i}$", "instance.solo_decode_rates"),
    ("$c_p, c_d$", "instance.prices.prefill, instance.prices.decode"),
    ("$w_i$", "instance.bundled_revenues"),
    ("$x_i$", "plan.x"),
    ("$X$", "plan.mixed_fraction"),
    ("$y_{m,i}$", "plan.y_mixed"),
    ("$y_{s,i}$", "plan.y_solo"),
    ("$q_{p,i}$", "plan.q_prefill"),
    ("$q_{d,i}$", "plan.q_decode"),
    ("$p_{s,i}$", "plan.solo_probability"),
    ("$R^*$", "plan.value"),
    ("admitted share", "plan.admission_fraction"),
)


def _symbols(_: str) -> str:
    """Symbols of the model as attributes, with their values for the preset ``base``."""
    instance = lse.presets.base()
    known = {"instance": instance, "plan": lse.plan(instance)}
    rows = []
    for symbol, code in _SYMBOLS:
        values = [_attribute(known, path) for path in code.split(", ")]
        shown = ", ".join(f"{float(v):.4g}" for value in values for v in np.atleast_1d(value))
        rows.append(f"| {symbol} | `{code}` | {shown} |")
    return "\n".join(["| symbol | code | value for `base` |", "|---|---|---|", *rows])


def _attribute(known: dict[str, Any], path: str) -> Any:
    first, *rest = path.split(".")
    return reduce(getattr, rest, known[first])


def _commands(_: str) -> str:
    """Every command with its options, as ``llmsched COMMAND --help`` has them."""
    import typer

    from llm_sched_env.cli import app

    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in sorted(group.commands.items()):
        if command.hidden:  # former names
            continue
        rows = [_option_row(option) for option in command.params if option.help]
        parts += [f"## {name}", command.help.strip()]
        if rows:
            parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *rows]))
        if command.epilog:
            examples = command.epilog.removeprefix("Example: ").replace("; llmsched", "\nllmsched")
            parts.append(f"```sh\n{examples}\n```")
    return "\n\n".join(parts)


def _option_row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    plain = isinstance(option.default, (int, float, str)) and not isinstance(option.default, bool)
    default = f"`{option.default}`" if plain else ""
    return f"| {names} | {' '.join(option.help.split())} | {default} |".replace("|,", "\\|,")


def _examples(_: str) -> str:
    return example_list()


_PARTS = {
    "environment": _environment,
    "policies": _policies,
    "instances": _instances,
    "symbols": _symbols,
    "commands": _commands,
    "examples": _examples,
}
