"""Run cases in processes of this machine or on Ray; finished ones are kept and not run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.ray_cluster import installation_digest
from llm_sched_env.files.records import from_plain, to_plain
from llm_sched_env.files.result_cache import read_result, result_key, store_result, unusable
from llm_sched_env.sizing.served_case import Case, CaseResult, serve_case
from llm_sched_env.sizing.workload import Workload

_KIND = "sizing case"
HERE = Executor(jobs=1)


@dataclass
class CaseRuns:
    """Runs cases, each once.

    Args:
        executor: where they run; the results do not depend on it.
        cache: folder of finished cases; None: they are known while this object lives.
        on_result: called with a line of text for each case that was run or found.
    """

    executor: Executor = HERE
    cache: Path | None = None
    on_result: Callable[[str], None] | None = None
    _known: dict[str, CaseResult] = field(default_factory=dict, repr=False)

    def results(self, workload: Workload, cases: Sequence[Case]) -> list[CaseResult]:
        """The results of cases, in their order.

        Raises:
            ConfigurationError: for a damaged file in the cache.
            LLMSchedError: that a case raised; finished ones are kept.
        """
        keys = [self._key(workload, case) for case in cases]
        missing = []
        for case, key in zip(cases, keys, strict=True):
            if key not in self._known and (found := self._read(key)) is not None:
                self._known[key] = found
            if key in self._known:
                self._tell(case)
            else:
                missing.append((case, key))
        run = partial(serve_case, workload)
        for number, result in self.executor.run(run, [case for case, _ in missing]):
            case, key = missing[number]
            self._known[key] = result
            if self.cache is not None:
                store_result(self.cache / f"{key}.json", _KIND, key, to_plain(CaseResult, result))
            self._tell(case)
        return [self._known[key] for key in keys]

    @cached_property
    def _digest(self) -> str:
        return installation_digest()

    def _key(self, workload: Workload, case: Case) -> str:
        """By everything that decides the result."""
        import joblib

        content = (workload.template, workload.samples[case.sample], workload.warmup)
        several = (workload.recorded, len(workload.samples) > 1)
        return result_key([self._digest, joblib.hash((content, several, case), "sha1")])

    def _read(self, key: str) -> CaseResult | None:
        if self.cache is None:
            return None
        file = self.cache / f"{key}.json"
        kept = read_result(file, _KIND)
        if kept is None:
            return None
        if kept.of != key:
            raise unusable(file, _KIND, "it is the result of another case")
        try:
            found: CaseResult = from_plain(CaseResult, kept.result, _KIND)
        except ValueError as error:
            raise unusable(file, _KIND, error) from None
        return found

    def _tell(self, case: Case) -> None:
        if self.on_result is not None:
            self.on_result(f"{case.policy}, {case.n_gpus} GPUs")
