"""A setting as flags of serving engines, and what these do not say.

Names as in the engines' own lists of arguments: `vllm serve` (docs.vllm.ai, configuration of the
scheduler and the cache) and SGLang's server arguments (docs/advanced_features/server_arguments.md).
"""

from __future__ import annotations

from llm_sched_env.sizing.settings import Setting

ENGINES = ("vllm", "sglang")
VLLM_BLOCK_TOKENS = 16


def vllm_flags(setting: Setting) -> list[str]:
    """For each replica of `vllm serve`.

    Its budget of tokens an iteration counts one for each decode, so that a whole chunk beside a
    full batch needs C + B - 1; a prompt takes at most C of them.
    """
    hardware = setting.kind.hardware
    slots, chunk = hardware.batch_slots, hardware.chunk_tokens
    flags = [
        f"--max-num-seqs {slots}",
        f"--max-num-batched-tokens {chunk + slots - 1}",
        f"--long-prefill-token-threshold {chunk}",
        "--enable-chunked-prefill",
        "--scheduling-policy fcfs",
        "--no-enable-prefix-caching",
    ]
    if hardware.kv_tokens is not None:
        flags.append(f"--num-gpu-blocks-override {hardware.kv_tokens // VLLM_BLOCK_TOKENS}")
    return flags


def sglang_flags(setting: Setting) -> list[str]:
    """For each replica of `sglang.launch_server`."""
    hardware = setting.kind.hardware
    flags = [
        f"--max-running-requests {hardware.batch_slots}",
        f"--chunked-prefill-size {hardware.chunk_tokens}",
        "--enable-mixed-chunk",
        "--prefill-max-requests 1",
        "--schedule-policy fcfs",
        "--disable-radix-cache",
    ]
    if hardware.kv_tokens is not None:
        flags.append(f"--max-total-tokens {hardware.kv_tokens}")
    return flags


_ROUTER = (
    "{} replicas need a router. Here requests wait in one queue for the whole cluster; a router "
    "that sends them on when they arrive knows less."
)
_ONE_PROMPT = (
    "vLLM may fill what is left of an iteration's tokens with the next prompt; here an iteration "
    "has one prompt. In SGLang the decodes beside a chunk count as part of it, so that it is "
    "shorter in a full batch."
)
_MEMORY = (
    "Engines take KV memory as tokens come and preempt when it runs out; here a request keeps "
    "room for all its tokens from the start, and nothing is preempted."
)
_PREFIXES = (
    "Prefix caches are switched off, as they are not modelled; switch them on again once the "
    "settings are known."
)
_TIMES = (
    "Iteration times are those of the hardware file; calibrate one on your engine "
    "(docs/calibration.md)."
)
_POLICY = (
    "Neither engine has the policy {}: with the flags alone it is first come, first served, and "
    "decodes stay where they were prefilled. Tune with --policies fcfs-immediate for what the "
    "flags alone give."
)
_POOLS = "Static pools of GPUs with and without prefills have no flag in one engine."
_RESERVES = "The scale of the reserves has no flag."


def left_out(setting: Setting) -> list[str]:
    """What the flags do not carry over, a sentence or two each."""
    notes = [] if setting.policy == "fcfs-immediate" else [_POLICY.format(setting.policy)]
    if setting.rule.pools == "static":
        notes.append(_POOLS)
    if setting.reserve_scale != 1.0:
        notes.append(_RESERVES)
    if setting.n_gpus > 1:
        notes.append(_ROUTER.format(setting.n_gpus))
    return [*notes, _ONE_PROMPT, _MEMORY, _PREFIXES, _TIMES]
