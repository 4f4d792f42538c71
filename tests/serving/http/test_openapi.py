"""The OpenAPI schema says what the service does: schemathesis looks for requests where it does not."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import torch
from hypothesis import strategies as st
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events
from torch import Tensor

from models.config import parse
from models.options import MEDIA_TYPES
from serving.config import ServingConfig
from serving.engine.replica import Replica
from serving.errors import CODES
from serving.http.routes import make_api
from tests.serving.hostile import Nothing

TOKEN = "a-token-of-this-test"
SEED = 6
EXAMPLES = 25


class Rater:
    """A scorer that finds everything fair."""

    def rate_each(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return torch.full((len(images),), 0.5), torch.full((len(images),), 0.5)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The interface, with all but the network and the scorer behind it."""
    tokens = tmp_path_factory.mktemp("openapi") / "tokens"
    tokens.write_text(TOKEN)
    settings = {"model": "dcp", "models": {"other": "dcp"}, "scorer": None, "threads": 1}
    config = parse(ServingConfig, settings | {"auth": {"token_file": str(tokens)}})
    replica = Replica(config)
    replica._scorer = Rater()
    replica._default.current = "nothing", Nothing()
    return make_api(config, replica)


@pytest.fixture(scope="module")
def schema(app: Any, jpeg: Callable[..., bytes]) -> Any:
    """The schema as schemathesis reads it, which gets photographs to send where the schema says only 'binary'."""
    photographs = {kind: [jpeg(seed, 24, 32, kind) for seed in range(3)] for kind in MEDIA_TYPES}
    for kind, media_type in MEDIA_TYPES.items():
        schemathesis.openapi.media_type(media_type, st.sampled_from(photographs[kind]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for kind, (first, *_) in photographs.items():
            archive.writestr(f"photo.{kind.lower()}", first)
    schemathesis.openapi.media_type("application/zip", st.just(buffer.getvalue()))
    schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(photographs["PNG"]))
    schemathesis.openapi.format("binary", st.sampled_from(photographs["JPEG"]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    generation = {"max-examples": EXAMPLES, "database": "none", "deterministic": True}
    config = SchemathesisConfig.from_dict({"seed": SEED, "headers": headers, "generation": generation})
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=headers)


def test_schemathesis_finds_nothing(schema: Any) -> None:
    problems: list[str] = []
    checked: Counter[str] = Counter()
    statuses: Counter[tuple[str, int]] = Counter()
    for event in engine.from_schema(schema).execute():
        assert not isinstance(event, events.FatalError), event
        if isinstance(event, events.NonFatalError):
            problems.append(f"{event.label}: {event.value}")
        if isinstance(event, events.ScenarioFinished):
            for nodes in event.recorder.checks.values():
                for node in nodes:
                    checked[node.name] += 1
                    if node.status == Status.FAILURE and node.failure_info is not None:
                        problems.append(f"{event.label}: {node.failure_info.failure}\n{node.failure_info.code_sample}")
            for interaction in event.recorder.interactions.values():
                if interaction.response is not None:
                    statuses[event.label or "", interaction.response.status_code] += 1
    assert not problems, "\n\n".join(sorted(set(problems)))
    print(checked, statuses)
    assert set(checked) >= {"not_a_server_error", "response_schema_conformance", "negative_data_rejection"}
    for label in ("POST /v1/dehaze", "POST /v1/batch", "POST /v1/score", "GET /v1/models", "GET /readyz"):
        assert statuses[label, 200] >= 1, statuses


def test_every_status_is_a_problem_with_its_codes(app: Any) -> None:
    described = app.openapi()
    assert set(described["paths"]) == {"/v1/dehaze", "/v1/batch", "/v1/score", "/v1/models", "/healthz", "/readyz"}
    for path in ("/v1/dehaze", "/v1/batch", "/v1/score"):
        responses = described["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"} <= set(responses)
    for operations in described["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                assert "X-Request-Id" in response["headers"]
                if status != "200":
                    problem = response["content"]["application/problem+json"]["schema"]["properties"]
                    assert problem["code"]["enum"] == [code for code, of in CODES.items() if str(of) == status]
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


def test_a_token_is_asked_for_where_it_is_checked(app: Any, tmp_path: Path) -> None:
    described = app.openapi()
    paths = described["paths"].items()
    asked = {path for path, found in paths if any("security" in operation for operation in found.values())}
    assert asked == {"/v1/dehaze", "/v1/batch", "/v1/score", "/v1/models"}
    open_config = parse(ServingConfig, {"model": "dcp", "scorer": None, "threads": 1})
    assert "securitySchemes" not in make_api(open_config, Replica(open_config)).openapi().get("components", {})
