"""Reports of a training step in the log of Transformers' Trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..torch.report import Step
from .session import Session


class MetricsCallback(TrainerCallback):
    """Adds `last_step.metrics()` to what the Trainer logs after a training step."""

    def __init__(self, session: Session):
        self._session = session
        self._told: Step | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        step = self._session.last_step
        # Logs of an evaluation, and those at the end, follow no training step of their own.
        if step is self._told or not step.layers:
            return
        self._told = step
        metrics = step.metrics()
        state.log_history[-1].update(metrics)
        # What the callbacks after this one are given.
        if logs is not None:
            logs.update(metrics)
