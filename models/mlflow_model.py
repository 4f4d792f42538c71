"""The model as MLflow loads it (models from code): encoded photographs in, encoded dehazed photographs out.

``mlflow.pyfunc.load_model("models:/dehazer@champion").predict([photo_bytes], params={"strength": 0.8})``. The code that
it needs comes with the model.
"""

from __future__ import annotations

import logging
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class UnknownParams(logging.Filter):
    """MLflow drops params that a signature does not name before the model sees them, and only logs that it does."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Make that message an error, where it is about this model."""
        text = record.getMessage()
        if text.startswith("Unrecognized params") and all(f"'{key}'" in text for key in ("strength", "keep_metadata")):
            raise MlflowException.invalid_parameter_value(text.replace("are ignored for inference", "are refused"))
        return True


class PyfuncDehazer(PythonModel):
    """Wraps :class:`models.predictor.Predictor`."""

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow."""
        from models.images import ImageLimits
        from models.predictor import Predictor

        log = logging.getLogger("mlflow.models.utils")
        if not any(type(known).__name__ == UnknownParams.__name__ for known in log.filters):
            log.addFilter(UnknownParams())
        allow = (context.model_config or {}).get("allow_networks", ())
        limits = ImageLimits()  # those of a service, as this may be one: no raw files
        self._predictor = Predictor(context.artifacts["checkpoint"], limits=limits, allow_networks=allow)

    def predict(self, context: Any, model_input: list[bytes], params: dict[str, Any] | None = None) -> list[bytes]:  # noqa: ARG002 - MLflow's signature
        """Dehaze image files.

        Args:
            context: unused.
            model_input: image files in an accepted format.
            params: as :class:`models.predictor.DehazeOptions`; unknown ones are refused.
        """
        from models.config import parse
        from models.options import DehazeOptions

        options = parse(DehazeOptions, params or {}, "params")
        return [self._predictor.dehaze_bytes(data, options)[0] for data in model_input]


set_model(PyfuncDehazer())
