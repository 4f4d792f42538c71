"""Tokens, what is open without one, and what browsers are told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from models.config import ConfigError
from serving.config import AuthConfig
from serving.engine.slots import ModelState
from serving.errors import Problem
from serving.http import auth
from serving.http.auth import WORDS, Tokens, is_loopback, require_protection

Service = Callable[..., TestClient]
ONE, TWO, THREE = ("0123456789abcdef-one", "0123456789abcdef-two", "0123456789abcdef-three")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0.0)
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{ONE}\n\n{TWO}  # of the printer\n")
    return path


class TestTokens:
    def test_several_and_their_names(self, file: Path) -> None:
        tokens = Tokens(AuthConfig(token_file=file))
        names = {tokens.owner(f"Bearer {token}") for token in (ONE, TWO)}
        assert len(names) == 2
        assert None not in names
        assert tokens.owner(f"bearer  {ONE}") in names
        for wrong in ("", ONE, f"Basic {ONE}", f"Bearer {ONE}x", f"Bearer {ONE[:-1]}", "Bearer", "Bearer # ours"):
            assert tokens.owner(wrong) is None

    def test_changed_while_it_runs(self, file: Path) -> None:
        tokens = Tokens(AuthConfig(token_file=file))
        file.write_text(f"{THREE}\n")
        assert tokens.owner(f"Bearer {ONE}") is None
        assert tokens.owner(f"Bearer {THREE}")

    def test_a_file_that_is_gone_lets_nobody_in(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        tokens = Tokens(AuthConfig(token_file=file))
        content = file.read_text()
        file.unlink()
        with caplog.at_level(logging.ERROR):
            assert tokens.owner(f"Bearer {ONE}") is None
        assert ONE not in caplog.text
        assert tokens.required
        file.write_text(content)
        assert tokens.owner(f"Bearer {ONE}")

    def test_files_of_other_programs(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        file.write_bytes(f"\ufeff{ONE}\r\n# für Ünder\r\n".encode())  # as editors on Windows write it
        tokens = Tokens(AuthConfig(token_file=file))
        assert tokens.owner(f"Bearer {ONE}")
        for content in (ONE.encode("utf-16"), f"pässwort-{ONE}".encode(), b"\x9f\xff" * 16):
            file.write_bytes(content)
            with pytest.raises(ConfigError, match=r"token with characters other than ASCII; expected such as .openssl"):
                Tokens(AuthConfig(token_file=file))
            with caplog.at_level(logging.ERROR):
                assert tokens.owner(f"Bearer {ONE}") is None
            assert "no token of" in caplog.text
            caplog.clear()
            file.write_text(ONE)
            assert tokens.owner(f"Bearer {ONE}")

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not Tokens(AuthConfig()).required
        monkeypatch.setenv("DEHAZE_TOKENS", f"{ONE}, {TWO}")
        assert Tokens(AuthConfig()).owner(f"Bearer {TWO}")

    def test_what_cannot_be_used_is_said_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            Tokens(AuthConfig(token_file=tmp_path / "nothing"))
        (tmp_path / "empty").write_text("# later\n")
        with pytest.raises(ConfigError, match="no token"):
            Tokens(AuthConfig(token_file=tmp_path / "empty"))
        (tmp_path / "short").write_text("hunter2\n")
        with pytest.raises(ConfigError, match="7 characters") as caught:
            Tokens(AuthConfig(token_file=tmp_path / "short"))
        assert "hunter2" not in str(caught.value)


class TestAddresses:
    def test_loopback(self) -> None:
        for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost", "::ffff:127.0.0.1"):
            assert is_loopback(host)
            require_protection(host, AuthConfig())

    def test_others_need_a_token_or_words(self, file: Path) -> None:
        for host in ("0.0.0.0", "192.0.2.7", "example.org", "::"):
            assert not is_loopback(host)
            with pytest.raises(ConfigError, match="no token"):
                require_protection(host, AuthConfig())
            require_protection(host, AuthConfig(token_file=file))
            require_protection(host, AuthConfig.model_validate({"without_token": WORDS}))
        with pytest.raises(ValueError, match="without_token"):
            AuthConfig.model_validate({"without_token": "yes"})


class Nothing:
    """A backend that was asked for nothing."""

    async def dehaze(self, task: object) -> Problem:
        raise RuntimeError(f"a secret of {__file__}")

    async def score(self, data: bytes) -> Problem:
        return Problem(422, "corrupt", "asked")

    async def models(self) -> list[ModelState]:
        return [ModelState("dcp", "dcp", "dcp", "ready", default=True)]


class TestService:
    def test_all_but_the_probes_need_a_token(self, service: Service, file: Path) -> None:
        client = service(Nothing(), auth={"token_file": str(file)})
        for path in ("/v1/models", "/openapi.json", "/nothing", "/healthz/"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/score", content=b"x").status_code == 401
        assert client.get("/v1/models", headers=bearer(ONE)).status_code == 200
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200

    def test_without_tokens_it_answers_loopback_only(self, service: Service) -> None:
        client = service(Nothing())
        local = TestClient(client.app, base_url="http://127.0.0.1")
        assert local.get("/v1/models").status_code == 200
        remote = TestClient(client.app, base_url="http://192.0.2.7")
        assert remote.get("/v1/models").status_code == 403
        assert remote.get("/healthz").status_code == remote.get("/").status_code == 200
        told = TestClient(service(Nothing(), auth={"without_token": WORDS}).app, base_url="http://192.0.2.7")
        assert told.get("/v1/models").status_code == 200

    def test_headers_of_every_answer(self, service: Service) -> None:
        client = service(Nothing())
        for path in ("/healthz", "/nothing"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"
            assert (
                "access-control-allow-origin" not in client.get(path, headers={"Origin": "https://a.example"}).headers
            )

    def test_pages_of_others_only_when_configured(self, service: Service) -> None:
        client = service(Nothing(), cors_origins=["https://a.example"])
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            answer = client.get("/healthz", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert allowed is None or "Retry-After" in answer.headers["access-control-expose-headers"]

    def test_a_failure_says_nothing_of_itself(self, service: Service, caplog: pytest.LogCaptureFixture) -> None:
        answer = service(Nothing()).post("/v1/dehaze", content=b"x")
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert "a secret of" in caplog.text
