"""The model as MLflow loads it (models from code): encoded photographs in, encoded dehazed photographs out.

``mlflow.pyfunc.load_model("models:/dehazer@champion").predict([photo_bytes])`` needs this project installed.
"""

from __future__ import annotations

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Dehazer(PythonModel):
    """Wraps :class:`models.predictor.Predictor`."""

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow."""
        from models.predictor import Predictor

        self._predictor = Predictor(context.artifacts["checkpoint"])

    def predict(self, context: Any, model_input: list[bytes], params: dict[str, Any] | None = None) -> list[bytes]:  # noqa: ARG002 - MLflow's signature
        """Dehaze image files.

        Args:
            context: unused.
            model_input: image files in an accepted format.
            params: ``strength``, ``format`` and ``quality``, as :class:`models.predictor.DehazeOptions`.
        """
        from models.config import parse
        from models.predictor import DehazeOptions

        options = parse(DehazeOptions, params or {}, "params")
        return [self._predictor.dehaze_bytes(data, options)[0] for data in model_input]


set_model(Dehazer())
