"""A new bundle is taken up, a bad one is refused and said, the one in service stays."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest

from scorer.registry.manifest import MANIFEST_NAME, Manifest, Tolerance
from scorer.registry.registry import BundleError, Registry
from scorer.serving.metrics import Metrics, MetricsServer
from scorer.serving.models import ModelWatch


class Built:
    def __init__(self, bundle) -> None:
        if bundle.manifest.preset == "broken":
            raise RuntimeError("graph does not run")
        self.version = bundle.manifest.version


def publish(registry: Registry, version: str, preset: str = "tiny", *, promote: bool = True) -> None:
    with registry.staging() as staged:
        staged.mkdir(parents=True)
        (staged / "encode.onnx").write_bytes(version.encode())
        manifest = Manifest(
            version=version,
            created_ms=0,
            code_version="test",
            preset=preset,
            tasks=("touch",),
            max_history=100,
            features={},
            tolerance=Tolerance(absolute=1e-4, measured=0),
            files={"encode.onnx": sha256(version.encode()).hexdigest()},
        )
        (staged / MANIFEST_NAME).write_text(manifest.model_dump_json())
        registry.publish(staged)
    if promote:
        registry.promote(version)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def watch(registry: Registry) -> tuple[ModelWatch, Metrics]:
    metrics = Metrics()
    return ModelWatch(registry, Built, metrics, 60.0), metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"longrank_scorer_{name}", labels)


def test_without_a_bundle_in_service_nothing_starts(registry):
    publish(registry, "v1", promote=False)
    with pytest.raises(BundleError, match="no bundle is in service"):
        watch(registry)


def test_a_promoted_bundle_is_taken_up(registry):
    publish(registry, "v1")
    watched, metrics = watch(registry)
    assert watched.model.version == "v1"
    publish(registry, "v2", promote=False)
    watched.look()
    assert watched.model.version == "v1"
    registry.promote("v2")
    watched.look()
    assert watched.model.version == "v2"
    assert value(metrics, "model_info", version="v1") == 0
    assert value(metrics, "model_info", version="v2") == 1
    registry.rollback()
    watched.look()
    assert watched.model.version == "v1"
    assert value(metrics, "model_reloads_total", result="taken") == 2


@pytest.mark.parametrize("how", ["damaged", "does not run"])
def test_a_bad_bundle_is_refused_once_and_tried_again_later(registry, caplog, how):
    publish(registry, "v1")
    watched, metrics = watch(registry)
    publish(registry, "v2", preset="broken" if how == "does not run" else "tiny")
    if how == "damaged":
        (registry.root / "bundles" / "v2" / "encode.onnx").write_bytes(b"changed")
    with caplog.at_level(logging.ERROR):
        watched.look()
        watched.look()
    assert watched.model.version == "v1"
    assert len(caplog.records) == 1
    assert caplog.records[0].version == "v2"
    assert value(metrics, "model_reloads_total", result="refused") == 1
    for _ in range(40):
        watched.look()
    assert value(metrics, "model_reloads_total", result="refused") == 2
    publish(registry, "v3")
    watched.look()
    assert watched.model.version == "v3"


def test_the_watch_thread_ends_with_its_context(registry):
    publish(registry, "v1")
    watched, _ = watch(registry)
    with watched:
        assert watched._thread.is_alive()
    assert not watched._thread.is_alive()


def test_metrics_readiness_and_heads_are_served():
    metrics, ready, heads = Metrics(), False, {7: {"epoch": 9, "seq_no": 3, "stale": 0}}
    with MetricsServer(metrics, lambda: ready, heads.get, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.port}"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{base}/readyz", timeout=5)
        assert caught.value.code == 503
        ready = True
        assert urllib.request.urlopen(f"{base}/readyz", timeout=5).status == 200
        metrics.model.labels("v9").set(1)
        text = urllib.request.urlopen(f"{base}/metrics", timeout=5).read().decode()
        assert 'longrank_scorer_model_info{version="v9"} 1.0' in text.splitlines()
        assert json.loads(urllib.request.urlopen(f"{base}/histories/7", timeout=5).read()) == heads[7]
        for path in ("", "histories/8", "histories/", "histories/-7", "7"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{base}/{path}", timeout=5)
            assert caught.value.code == 404


def test_serving_imports_no_torch_and_no_flink():
    code = (
        "import sys, scorer.serving.process, infra.commands.serve\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('torch', 'pyflink', 'onnxscript')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
