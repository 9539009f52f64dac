"""What deploy/ says about variables, paths, ports, users and times is what the program does."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import crossplane
import kubernetes_validate
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.factory import EXTENSION, create_app
from app.settings import ROOT, Settings
from workers.lifecycle import STOP_TIMEOUT_S

DEPLOY = ROOT / "deploy"
DEFAULTS = Settings()
VARIABLES = {field.upper() for field in Settings.model_fields}
NOT_OURS = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
COMMAND = ["weir", "run"]
KUBERNETES_VERSIONS = ("1.30", "1.36")
UID = 10001


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text(f"kubernetes/{name}")))


CONTAINERFILE = text("Containerfile")
COMPOSE = yaml.safe_load(text("compose.yaml"))
STATEFUL_SET = documents("statefulset.yaml")[0]
POD = STATEFUL_SET["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
CONFIG = documents("configmap.yaml")[0]["data"]
MANIFESTS = sorted(path.name for path in (DEPLOY / "kubernetes").glob("*.yaml"))


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Containerfile's last stage."""
    stage = CONTAINERFILE.replace("\\\n", " ").rpartition("\nFROM ")[2]
    return re.findall(rf"^{name} +(.+)$", stage, re.MULTILINE)


def image_environment() -> dict[str, str]:
    return dict(item.split("=", 1) for line in instructions("ENV") for item in line.split())


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit; each may be there several times."""
    found: dict[str, list[str]] = {}
    for line in text("systemd/weir.service").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def unit_environment() -> dict[str, str]:
    assert "Environment" not in unit(), "commands would not see it"
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text("systemd/weir.env"), re.MULTILINE))


def environments() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "Containerfile", image_environment()
    yield "compose", COMPOSE["services"]["weir"]["environment"]
    yield "systemd", unit_environment()
    yield "kubernetes", CONFIG | {item["name"]: item["value"] for item in CONTAINER["env"]}


@pytest.mark.parametrize(
    ("place", "environment"), list(environments()), ids=[name for name, _ in environments()]
)
def test_every_variable_is_one_of_the_configuration_and_has_a_value_it_takes(
    place: str, environment: dict[str, str], tmp_path: Path
) -> None:
    ours = {name: value for name, value in environment.items() if name not in NOT_OURS}
    assert [name for name in ours if name.removesuffix("_FILE") not in VARIABLES] == []
    plain = {name: value for name, value in ours.items() if not name.endswith("_FILE") and value}
    Settings.from_env({name: value for name, value in plain.items() if not re.search("…", value)})
    assert {value for name, value in ours.items() if name.endswith("_FILE")} <= {
        f"/run/secrets/{path}" for path in (*COMPOSE["secrets"], *(f"weir/{key}" for key in secret_keys()))
    }


def secret_keys() -> set[str]:
    return set(documents("secret.example.yaml")[0]["stringData"])


def paths_of_the_application(tmp_path: Path) -> set[str]:
    app = create_app(Settings(data_dir=tmp_path, mongodb_uri="mongodb://127.0.0.1:1/"))
    app.extensions[EXTENSION].database.client.close()
    return {str(rule) for rule in app.url_map.iter_rules()}


def test_the_paths_asked_for_exist(tmp_path: Path) -> None:
    paths = paths_of_the_application(tmp_path)
    probes = {
        CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert probes == {"/health", "/ready"}
    checked = re.findall(r"127\.0\.0\.1:[^/]+(/\w+)", " ".join(instructions("HEALTHCHECK")))
    scraped = STATEFUL_SET["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]
    assert checked == ["/health"]
    assert {*probes, *checked, scraped} <= paths


def test_nginx_knows_every_path_and_shows_the_operators_side_to_nobody_else(tmp_path: Path) -> None:
    clients, operators = map(re.compile, re.findall(r"location ~ (\S+) \{", text("nginx/weir.conf")))
    others = ("/api/user/", "/ready", "/health")
    paths = paths_of_the_application(tmp_path)
    open_to_all = {path for path in paths if path == "/" or clients.match(path) or path.startswith(others)}
    assert "location = / {" in text("nginx/weir.conf")
    guarded = {path for path in paths if operators.match(path)}
    assert open_to_all | guarded == paths
    assert not open_to_all & guarded
    of_operators = {path for path in paths if re.search("admin|keys|reload|metrics", path)}
    assert {path for path in of_operators if not path.startswith("/api/user/")} <= guarded


def test_one_port_everywhere() -> None:
    port = DEFAULTS.port
    assert image_environment()["PORT"] == str(port)
    assert instructions("EXPOSE") == [str(port)]
    assert COMPOSE["services"]["weir"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert unit_environment()["PORT"] == str(port)
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": port}]
    annotations = STATEFUL_SET["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port)
    assert f"server 127.0.0.1:{port} " in text("nginx/weir.conf")
    named = {port["targetPort"] for service in documents("service.yaml") for port in service["spec"]["ports"]}
    assert named == {"http"}


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_whoever_stops_it_waits_for_answers_and_for_their_records() -> None:
    graces = {
        "compose": (
            COMPOSE["services"]["weir"]["environment"]["GRACEFUL_TIMEOUT_S"],
            seconds(COMPOSE["services"]["weir"]["stop_grace_period"]),
        ),
        "systemd": (unit_environment()["GRACEFUL_TIMEOUT_S"], int(unit()["TimeoutStopSec"][0])),
        "kubernetes": (
            CONFIG["GRACEFUL_TIMEOUT_S"],
            POD["terminationGracePeriodSeconds"]
            - int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1]),
        ),
    }
    for place, (grace, patience) in graces.items():
        assert patience > int(grace) + STOP_TIMEOUT_S, place
    assert unit()["KillMode"] == ["mixed"]


def test_it_runs_as_nobody_in_particular_and_writes_only_where_it_may() -> None:
    data_dir = image_environment()["DATA_DIR"]
    assert instructions("USER") == [f"{UID}:{UID}"]
    assert instructions("VOLUME") == [data_dir]
    assert f"--uid {UID}" in CONTAINERFILE
    weir = COMPOSE["services"]["weir"]
    assert weir["read_only"] is True
    assert weir["volumes"] == [f"data:{data_dir}"]
    assert weir["cap_drop"] == ["ALL"]
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == UID
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert mounts.keys() == volumes | {STATEFUL_SET["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]}
    assert {item["name"]: item["value"] for item in CONTAINER["env"]}["DATA_DIR"].startswith(mounts["data"])
    assert unit_environment()["DATA_DIR"] == f"/var/lib/{unit()['StateDirectory'][0]}"


def test_the_disk_has_room_for_the_journal() -> None:
    claim = STATEFUL_SET["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert int(claim.removesuffix("Gi")) * 1024 > 2 * int(CONFIG["JOURNAL_MAX_MB"])


def test_the_command_is_the_same_everywhere() -> None:
    assert instructions("CMD")[-1] == str(COMMAND).replace("'", '"')
    assert "command" not in CONTAINER
    start = unit()["ExecStart"][0].split()
    assert [Path(word).name if "/" in word else word for word in start] == COMMAND


def test_the_image_holds_what_is_there_and_all_that_is_imported() -> None:
    copied = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert {f"!{name.removeprefix('./')}" for name in (*copied, "requirements.lock")} <= set(allowed.split())
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    sources = [path for name in ("app", "workers") for path in (ROOT / name).rglob("*.py")]
    sources += [ROOT / "gunicorn.conf.py", ROOT / "wsgi.py"]
    imported = {
        found
        for source in sources
        for found in re.findall(r"^ *(?:from|import) (\w+)", source.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert imported & packages <= set(copied)


def test_the_image_has_a_python_that_is_supported() -> None:
    versions = re.findall(r"FROM docker\.io/library/python:3\.(\d+)[.-]", CONTAINERFILE)
    assert len(set(versions)) == 1
    assert int(versions[0]) >= 11


def test_images_from_elsewhere_are_named_by_digest() -> None:
    built = {"weir", "build"}
    images = re.findall(r"^FROM +(\S+)", CONTAINERFILE, re.MULTILINE)
    images += re.findall(r"^COPY .*--from=(\S+)", CONTAINERFILE, re.MULTILINE)
    images += [service["image"] for service in COMPOSE["services"].values()]
    images += [container["image"] for container in (*POD["containers"], *POD.get("initContainers", ()))]
    elsewhere = [image for image in images if image not in built]
    assert len(elsewhere) == 3
    for image in elsewhere:
        assert re.fullmatch(r"docker\.io/[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image
    (mine,) = documents("kustomization.yaml")[0]["images"]
    assert mine.keys() == {"name", "newName", "digest"}
    assert mine["name"] == CONTAINER["image"]


def test_memory_and_processes_are_limited() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["mem_limit"].endswith("g"), name
        assert 0 < service["pids_limit"] <= 4096, name
    assert CONTAINER["resources"]["limits"]["memory"] == "1Gi"


def test_compose_names_only_what_it_has() -> None:
    services = COMPOSE["services"]
    assert services["weir"]["depends_on"].keys() == {"mongo"}
    used = {secret for service in services.values() for secret in service["secrets"]}
    assert used == COMPOSE["secrets"].keys()
    volumes = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"]}
    assert volumes == COMPOSE["volumes"].keys()
    assert (DEPLOY / services["weir"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["weir"]["build"]["dockerfile"]).exists()
    described = text("compose.yaml").partition("name: weir")[0]
    assert [name for name in COMPOSE["secrets"] if name not in described] == []


@pytest.mark.parametrize("name", [name for name in MANIFESTS if name != "kustomization.yaml"])
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_takes_the_manifests(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_manifests_refer_to_each_other() -> None:
    listed = documents("kustomization.yaml")[0]["resources"]
    assert {*listed, "kustomization.yaml", "secret.example.yaml"} == set(MANIFESTS)
    labels = STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    selectors = [STATEFUL_SET["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in documents("service.yaml")]
    selectors.append(documents("disruption.yaml")[0]["spec"]["selector"]["matchLabels"])
    assert all(selector.items() <= labels.items() for selector in selectors)
    services = {service["metadata"]["name"] for service in documents("service.yaml")}
    assert STATEFUL_SET["spec"]["serviceName"] in services
    assert STATEFUL_SET["spec"]["replicas"] > documents("disruption.yaml")[0]["spec"]["maxUnavailable"]
    (config,) = CONTAINER["envFrom"]
    assert config["configMapRef"]["name"] == documents("configmap.yaml")[0]["metadata"]["name"]
    secret = next(volume for volume in POD["volumes"] if "secret" in volume)["secret"]["secretName"]
    assert secret == documents("secret.example.yaml")[0]["metadata"]["name"]
    files = {Path(item["value"]).name for item in CONTAINER["env"] if item["name"].endswith("_FILE")}
    assert files == secret_keys()


def test_nginx_lets_streams_through_and_is_more_patient_than_weir() -> None:
    parsed = crossplane.parse(str(DEPLOY / "nginx" / "weir.conf"), single=True, check_ctx=False)
    assert parsed["errors"] == []
    server = next(item for item in parsed["config"][0]["parsed"] if item["directive"] == "server")
    client_api = next(item for item in server["block"] if "".join(item["args"][1:]).startswith("^/(v1|"))
    said = {item["directive"]: item["args"][0] for item in client_api["block"]}
    assert said["proxy_buffering"] == said["proxy_request_buffering"] == said["gzip"] == "off"
    assert seconds(said["proxy_read_timeout"]) > DEFAULTS.upstream_read_timeout_s
    everywhere = {item["directive"]: item["args"] for item in server["block"]}
    assert int(everywhere["client_max_body_size"][0].removesuffix("m")) > DEFAULTS.max_body_mb
    assert everywhere["proxy_http_version"] == ["1.1"]
    assert "$upstream_http_x_request_id" in text("nginx/weir.conf")


def test_hadolint_has_nothing_to_say() -> None:
    assert run("hadolint", "deploy/Containerfile") == ""


def run(*command: str, **options: Any) -> str:
    """What a tool beside this Python, or of the system, says; it has to succeed."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit_and_finds_it_well_protected(tmp_path: Path) -> None:
    source = text("systemd/weir.service").replace("/opt/weir/.venv/bin/", "/usr/bin/")
    source = re.sub(r"^ExecStart=\S+", "ExecStart=/usr/bin/env", source, flags=re.MULTILINE)
    copy = tmp_path / "weir.service"
    copy.write_text(source, encoding="utf-8")
    run("systemd-analyze", "verify", "--man=no", str(copy))
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy))


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed")
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    self_signed(tmp_path)
    source = text("nginx/weir.conf").replace("/etc/nginx/tls/", f"{tmp_path}/")
    source = source.replace("/var/log/nginx/", f"{tmp_path}/")
    wrapped = f"pid {tmp_path}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{source}\n}}\n"
    (tmp_path / "nginx.conf").write_text(wrapped, encoding="utf-8")
    run("/usr/sbin/nginx", "-t", "-q", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))


def self_signed(directory: Path) -> None:
    """A certificate under the names the configuration expects."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weir.example.org")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (directory / "weir.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "weir.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
