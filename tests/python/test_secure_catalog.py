"""TLS, certificates of clients, tokens and labels, from the command line."""

import json
import signal
import subprocess
import time

import pytest

from test_processes import (  # noqa: F401  (fixtures)
    PATIENCE, assert_holds, checkpoint, publish, pull, start)

TOKENS = {"trainer": ("publish", "the-token-of-the-trainer"),
          "engine": ("receive", "the-token-of-the-engine"),
          "viewer": ("read", "the-token-of-the-viewer")}


class Secured:
    """Certificates and tokens, a file each."""

    def __init__(self, folder):
        self.folder = folder
        self._openssl("req", "-x509", *self._new_key("ca"), "-out", self / "ca.pem",
                      "-days", "2", "-subj", "/CN=test CA")
        (folder / "host").write_text("subjectAltName=IP:127.0.0.1\n")
        for name in ("catalog", "client"):
            self._openssl("req", *self._new_key(name), "-out", self / "csr",
                          "-subj", f"/CN={name}")
            self._openssl("x509", "-req", "-in", self / "csr", "-CA",
                          self / "ca.pem", "-CAkey", self / "ca.key",
                          "-CAcreateserial", "-days", "2", "-extfile",
                          self / "host", "-out", self / f"{name}.pem")
        self.secret("tokens", "".join(
            f"{roles} {name} {token}\n"
            for name, (roles, token) in TOKENS.items()))
        for name, (_, token) in TOKENS.items():
            self.secret(f"token-{name}", token + "\n")

    def __truediv__(self, name):
        return str(self.folder / name)

    def secret(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    def _new_key(self, name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-keyout", self / f"{name}.key")

    @staticmethod
    def _openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    def server(self):
        return ("--tls-cert", self / "catalog.pem", "--tls-key",
                self / "catalog.key", "--tls-client-ca", self / "ca.pem",
                "--tokens", self / "tokens", "--audit", self / "audit")

    def client(self, name):
        """As keywords of publish and pull."""
        return {"tls-ca": self / "ca.pem", "tls-cert": self / "client.pem",
                "tls-key": self / "client.key",
                "token-file": self / f"token-{name}"}

    def words(self, name):
        return [word for key, value in self.client(name).items()
                for word in (f"--{key}", value)]


@pytest.fixture
def secured(tmp_path_factory):
    return Secured(tmp_path_factory.mktemp("secured"))


def test_a_refit_through_tls_certificates_and_tokens(
        weft, start, checkpoint, secured, tmp_path):  # noqa: F811
    catalog = start("catalog", "--listen", "127.0.0.1:0",
                    *secured.server()).event()["address"]
    trainer = publish(start, catalog, checkpoint, "hf", 0,
                      label="precision=bf16", **secured.client("trainer"))
    assert trainer.event()["event"] == "published"
    engine = pull(start, catalog, "vllm:tp=1", 0, require="precision=bf16",
                  **secured.client("engine"))
    for step in range(2):
        if step:
            trainer.say("step")
            trainer.event()
        engine.say("poison")
        engine.say("refit")
        assert engine.event()["event"] == "refitted"
        assert_holds(weft, engine, checkpoint, "vllm:tp=1", 0, step,
                     tmp_path / f"{step}.safetensors")

    listed = weft("versions", "--catalog", catalog, "--json", "--label",
                  "precision=bf16", *secured.words("viewer"))
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout.splitlines()[-1])["labels"] == {
        "precision": "bf16"}
    others = weft("versions", "--catalog", catalog, "--json", "--label",
                  "precision=fp8", *secured.words("viewer"))
    assert others.stdout == ""
    workers = weft("workers", "--catalog", catalog, "--json",
                   *secured.words("viewer")).stdout
    assert {json.loads(line)["owner"] for line in workers.splitlines()} == {
        "trainer", "engine"}

    for command in ("status", "events"):
        seen = weft(command, "--catalog", catalog, *secured.words("viewer"))
        assert seen.returncode == 0, seen.stderr
        assert "run:0:1" in seen.stdout

    # An engine's token publishes nothing, and a viewer's fetches nothing.
    wrong = publish(start, catalog, checkpoint, "hf", 0,
                    **secured.client("engine"))
    assert wrong.event()["code"] == "PERMISSION_DENIED"
    audit = [json.loads(line)
             for line in (secured.folder / "audit").read_text().splitlines()]
    assert any(line["call"] == "GetSources" and line["token"] == "engine"
               and line["outcome"] == "OK" for line in audit)
    assert any(line["outcome"] == "PERMISSION_DENIED" for line in audit)
    assert all(line.get("certificate") == "client" for line in audit)
    assert not any(token in json.dumps(audit)
                   for _, token in TOKENS.values())


def test_what_is_missing_is_said(weft, start, secured):  # noqa: F811
    process = start("catalog", "--listen", "127.0.0.1:0", *secured.server())
    catalog = process.event()["address"]

    def refusal(*words):
        result = weft("versions", "--catalog", catalog, *words)
        assert result.returncode == 1
        return result.stderr

    assert "speaks TLS and this client does not" in refusal()
    assert "wants a certificate of its clients" in refusal(
        "--tls-ca", secured / "ca.pem")
    words = secured.words("viewer")
    assert "wants a token" in refusal(*words[:-2])
    (secured.folder / "token-viewer").chmod(0o644)
    assert "chmod 600" in refusal(*words)
    (secured.folder / "token-viewer").chmod(0o600)
    assert weft("versions", "--catalog", catalog, *words).returncode == 0
    # Another token for the same name, while the catalog runs.
    secured.secret("tokens.new", "read viewer the-next-token-of-the-viewer\n")
    (secured.folder / "tokens.new").rename(secured.folder / "tokens")
    assert "is not one that this catalog knows" in refusal(*words)
    secured.secret("token-viewer", "the-next-token-of-the-viewer")
    assert weft("versions", "--catalog", catalog, *words).returncode == 0


def test_tokens_without_tls_are_refused_unless_told(weft, start, secured):  # noqa: F811
    refused = weft("catalog", "--listen", "127.0.0.1:0", "--tokens",
                   secured / "tokens")
    assert refused.returncode == 1
    assert "--insecure-tokens" in refused.stderr
    catalog = start("catalog", "--listen", "127.0.0.1:0", "--tokens",
                    secured / "tokens", "--insecure-tokens").event()["address"]
    token = ("--token-file", secured / "token-viewer")
    clear = weft("versions", "--catalog", catalog, *token)
    assert clear.returncode == 1 and "--insecure-tokens" in clear.stderr
    assert weft("versions", "--catalog", catalog, *token,
                "--insecure-tokens").returncode == 0


# The process stops, its connection does not close: the ping ends it.
def test_a_receiver_that_stops_loses_its_lease(weft, start, checkpoint):  # noqa: F811
    catalog = start("catalog", "--listen", "127.0.0.1:0").event()["address"]
    trainer = publish(start, catalog, checkpoint, "hf", 0)
    trainer.event()
    engine = pull(start, catalog, "vllm:tp=1", 0, inject="faults")
    engine.say("drop")
    engine.say("refit")
    def await_leases(wanted):
        give_up = time.monotonic() + PATIENCE
        while True:
            listed = weft("versions", "--catalog", catalog, "--json").stdout
            leases = sum(json.loads(line)["leases"]
                         for line in listed.splitlines())
            if leases == wanted:
                return
            assert time.monotonic() < give_up, f"{leases} leases"

    await_leases(1)
    engine.child.send_signal(signal.SIGSTOP)
    await_leases(0)
    engine.child.send_signal(signal.SIGCONT)
    # Its refit cannot commit any more: the worker is dead.
    assert engine.event()["event"] == "failed"
    # It comes back as another one.
    engine.say("refit")
    assert engine.event()["event"] == "refitted"
