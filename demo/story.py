"""The story, step by step. Each step does its part with the commands an operator would use, and checks what it sees."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demo.machine import TWISTD, Machine, StepFailed, free_ports
from demo.members import Cluster

ENGINES = ("se-1", "se-2")
BACKENDS = ("blue", "green")


class ControllerEnded(RuntimeError):
    """There is no sense in waiting for it."""


@dataclass(frozen=True)
class Step:
    """`run` does the step and returns what was seen, in a few words."""

    name: str
    title: str
    run: Callable[[Story], str]


class Story:
    """The state of one run: the machine, and the ports that were chosen."""

    def __init__(self, machine: Machine, dataplane: str = "auto", store: str = "sqlite") -> None:
        self.machine = machine
        self.dataplane = dataplane
        self.members = Cluster(machine.folder) if store == "etcd" else None
        ports = free_ports(2 + len(BACKENDS) + len(ENGINES))
        self.ssh_port, self.https_port = ports[:2]
        self.backend_ports = dict(zip(BACKENDS, ports[2:], strict=False))
        self.service_ports = dict(zip(ENGINES, ports[2 + len(BACKENDS) :], strict=True))
        self.answered: Counter[str] = Counter()
        """How many requests each backend has answered through a virtual service."""

    @property
    def steps(self) -> list[Step]:
        """Those to be taken in this story, in order."""
        return list(STEPS if self.members is None else STEPS_ON_ETCD)

    def close(self) -> None:
        """End what the machine does not."""
        if self.members is not None:
            self.members.stop()

    @property
    def settings(self) -> str:
        return str(self.machine.folder / "controller.toml")

    def start_controller(self) -> None:
        self.machine.start(
            "controller",
            sys.executable,
            TWISTD,
            "--nodaemon",
            "--pidfile=",
            "avi-controller",
            "--config",
            self.settings,
        )

    def start_backend(self, name: str) -> None:
        self.machine.start(name, sys.executable, "-m", "demo.backend", name, str(self.backend_ports[name]))

    def engine(self, name: str) -> dict[str, Any]:
        return self.machine.asked("se", "show", name)

    def running_desired(self, name: str) -> dict[str, Any] | None:
        """The service engine, once it says that it runs what it should."""
        engine = self.engine(name)
        desired = engine.get("desired")
        return engine if desired and engine.get("config", {}).get("applied") == desired else None

    def has_servers(self, name: str, field: str, count: int) -> bool:
        """Whether the service engine reports so many servers up, or down."""
        return bool(self.engine(name).get(field) == count)

    def get(self, engine: str) -> str:
        """The name of the backend that answers through the virtual service on `engine`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service_ports[engine], timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read().decode()
            if answer.status != 200:
                raise StepFailed(f"the virtual service on {engine} answered {answer.status}")
            self.answered[body] += 1
            return body
        except OSError as error:
            raise StepFailed(f"the virtual service on {engine} does not answer: {error}") from error
        finally:
            connection.close()


def make_domain(story: Story) -> str:
    (story.machine.folder / "controller.toml").write_text(
        f"""\
node = "node-1"
state = "controller"
socket = "{story.machine.socket}"
addresses = ["127.0.0.1"]

[ssh]
listen = ["127.0.0.1"]
port = {story.ssh_port}

[https]
listen = ["127.0.0.1"]
port = {story.https_port}

[cloud]
folder = "instances"
engine = "{story.dataplane}"

[store]
{story.members.settings if story.members else ""}
"""
    )
    story.machine.avictl("init", "--config", story.settings)
    try:
        story.machine.avictl("init", "--config", story.settings)
    except StepFailed:
        return "root CA, issuing CA, node, image key; a second init was refused"
    raise StepFailed("a second init was not refused")


def start_members(story: Story) -> str:
    assert story.members is not None
    story.members.start()
    return f"{', '.join(story.members.names)}, with certificates of a CA of their own"


def lose_member(story: Story) -> str:
    assert story.members is not None
    leader = story.machine.until("etcd has a leader", story.members.leader)
    story.members.kill(leader)
    begun = time.monotonic()
    story.machine.avictl("se", "label", ENGINES[0], "demo=members")
    return f"{leader}, which led, is gone for good; the node could write again {time.monotonic() - begun:.1f} s later"


def start_controller(story: Story) -> str:
    story.start_controller()

    def answers() -> dict[str, Any] | None:
        if story.machine.ended("controller"):
            raise ControllerEnded("the controller has ended")
        return story.machine.asked("status")

    status = story.machine.until("the controller answers", answers)
    return f"node {status['node']} of domain {status['domain']}, SSH on {story.ssh_port}, HTTPS on {story.https_port}"


def build_image(story: Story) -> str:
    path = story.machine.folder / "image.tar.gz"
    story.machine.avictl("image", "build", "--out", str(path))
    if path.stat().st_mode & 0o077:
        raise StepFailed("the image holds a key, and others may read it")
    return f"{path.name}, {path.stat().st_size // 1024} KiB"


def start_backends(story: Story) -> str:
    for name in BACKENDS:
        story.start_backend(name)
    for name, port in story.backend_ports.items():

        def answers(port: int = port) -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/")
            return connection.getresponse().read() != b""

        story.machine.until(f"the backend {name} answers", answers)
    return " and ".join(f"{name} on {port}" for name, port in story.backend_ports.items())


def create_engines(story: Story) -> str:
    story.machine.avictl("se", "create", "--count", str(len(ENGINES)), "--prefix", "se", "--label", "site=demo")
    for name in ENGINES:

        def up(name: str = name) -> bool:
            engine = story.engine(name)
            return engine["state"] == "enrolled" and engine.get("connected_since") is not None

        story.machine.until(f"{name} has enrolled and holds its tunnel", up)
    found = story.engine(ENGINES[0])
    return f"{', '.join(ENGINES)} enrolled with keys of their own, tunnels up, data plane {found['dataplane']}"


def refuse_image_key(story: Story) -> str:
    from demo.thief import enrol_again

    refusal = enrol_again(story.machine.folder / "image.tar.gz", ENGINES[0])
    if refusal not in (409, 410):
        raise StepFailed(f"the image key was used again for {ENGINES[0]}, and the node answered {refusal}")
    return f"the image key alone, for {ENGINES[0]} once more: {refusal}"


def push_configuration(story: Story) -> str:
    servers = [{"name": name, "address": "127.0.0.1", "port": port} for name, port in story.backend_ports.items()]
    check = {"kind": "http", "path": "/", "interval_ms": 500, "timeout_ms": 400, "rise": 1, "fall": 2}
    documents: list[dict[str, Any]] = [
        {
            "name": "demo",
            "applies_to": {"kind": "labels", "labels": {"site": "demo"}},
            "pools": [{"name": "web", "servers": servers, "health_check": check}],
        }
    ]
    documents += [
        {
            "name": f"{engine}-web",
            "applies_to": {"kind": "service-engine", "id": engine},
            "virtual_services": [{"name": "web", "address": "127.0.0.1", "port": port, "pool": "web"}],
        }
        for engine, port in story.service_ports.items()
    ]
    for document in documents:
        path = story.machine.folder / f"{document['name']}.json"
        path.write_text(json.dumps(document))
        story.machine.avictl("config", "apply", "-f", str(path))
    for name in ENGINES:
        story.machine.until(f"{name} runs what it should", partial(story.running_desired, name))
    applied = story.engine(ENGINES[0])["config"]["applied"]
    return f"pushed and acknowledged: revision {applied['revision']}, SHA-256 {applied['sha256'][:12]}…"


def send_traffic(story: Story) -> str:
    seen: Counter[str] = Counter()
    for name in ENGINES:
        story.machine.until(
            f"both backends are up on {name}", partial(story.has_servers, name, "servers_up", len(BACKENDS))
        )
        here = Counter(story.get(name) for _ in range(50))
        if set(here) != set(BACKENDS):
            raise StepFailed(f"{name} sent its 50 requests to {dict(here)}")
        seen += here
    return ", ".join(f"{count} requests to {name}" for name, count in sorted(seen.items()))


def lose_backend(story: Story) -> str:
    victim, other = BACKENDS
    story.machine.kill(victim)

    def down() -> dict[str, Any] | None:
        states = {each["server"]: each for each in story.engine(ENGINES[0]).get("health", [])}
        return states[victim] if states.get(victim, {}).get("state") == "down" else None

    found = story.machine.until(f"{victim} is reported down", down)
    for name in ENGINES:
        story.machine.until(f"{name} has it down", partial(story.has_servers, name, "servers_down", 1))
        if Counter(story.get(name) for _ in range(20)) != {other: 20}:
            raise StepFailed(f"{name} still sends requests to {victim}")
    story.start_backend(victim)
    story.machine.until(f"{victim} is up again", partial(story.has_servers, ENGINES[0], "servers_up", len(BACKENDS)))
    return f"{victim} seen down ({found.get('why') or 'no answer'}), {other} took all of it, {victim} seen up again"


def run_commands(story: Story) -> str:
    for command in ("ping", "status", "config", "dataplane"):
        if not story.machine.avictl("run", ENGINES[0], command).strip():
            raise StepFailed(f"the command {command} printed nothing")
    return "ping, status, config, dataplane on " + ENGINES[0]


def ask_logs(story: Story) -> str:
    """What the demo has asked for is what the request logs say, to the request."""

    def found() -> list[list[Any]] | None:
        patience = f"{story.machine.patience_s:g}s"
        story.machine.avictl("logs", "pull", "-l", "site=demo", "--deadline", patience)
        rows = story.machine.asked("logs", "query", "--by", "server").get("rows", [])
        return rows if dict(rows) == dict(story.answered) else None

    rows = story.machine.until("each request is in the archive of the node", found)
    if gaps := story.machine.asked("logs", "query", "--gaps").get("rows", []):
        raise StepFailed(f"something is missing in the request logs: {gaps}")
    [[_, p99]] = story.machine.asked("logs", "query", "--percentile", "99")["rows"]
    counts = ", ".join(f"{server} {count}" for server, count in rows)
    return f"pulled from {' and '.join(ENGINES)}, and asked: {counts}, none missing, 99 % within {p99:.2g} ms"


def open_ssh(story: Story) -> str:
    if shutil.which("ssh") is None:
        raise StepFailed("there is no ssh on this machine: install OpenSSH's client (Debian: openssh-client)")
    said = story.machine.avictl("ssh", ENGINES[1], "--", "ping")
    if not said.strip():
        raise StepFailed("the SSH session printed nothing")
    return f"stock ssh to {ENGINES[1]}, through its own tunnel"


def lose_controller(story: Story) -> str:
    before = {name: story.engine(name)["config"]["applied"] for name in ENGINES}
    story.machine.kill("controller")
    headless = Counter(story.get(ENGINES[0]) for _ in range(20))
    story.start_controller()
    for name in ENGINES:

        def back(name: str = name) -> bool:
            engine = story.running_desired(name)
            return bool(engine and engine.get("connected_since") and engine["config"]["applied"] == before[name])

        story.machine.until(f"{name} is back", back)
    return f"killed; {sum(headless.values())} requests served without it; both tunnels are back by themselves"


def delete_engines(story: Story) -> str:
    for name in ENGINES:
        story.machine.avictl("se", "delete", name, "--yes")
    left = story.machine.asked("se", "list")["items"]
    if left:
        raise StepFailed(f"still there: {[each['id'] for each in left]}")
    if list(story.machine.folder.glob("instances/*")):
        raise StepFailed("the instances' folders are still there")
    return "drained, ended, forgotten"


STEPS_ON_ETCD = (
    Step("members", "start three members of etcd", start_members),
    Step("domain", "make the domain of trust", make_domain),
    Step("controller", "start the controller", start_controller),
    Step("image", "build the SE image", build_image),
    Step("backends", "start two web servers", start_backends),
    Step("engines", "create two service engines from it", create_engines),
    Step("image-key", "try the image key again", refuse_image_key),
    Step("configuration", "push a virtual service", push_configuration),
    Step("member", "kill a member of etcd", lose_member),
    Step("traffic", "send traffic through it", send_traffic),
    Step("health", "kill a web server", lose_backend),
    Step("command", "send commands back", run_commands),
    Step("ssh", "open an SSH session", open_ssh),
    Step("logs", "pull the request logs, and ask them", ask_logs),
    Step("restart", "kill the controller", lose_controller),
    Step("delete", "delete the service engines", delete_engines),
)
STEPS = tuple(each for each in STEPS_ON_ETCD if each.name not in ("members", "member"))


def tell(
    story: Story,
    steps: Sequence[Step],
    *,
    first: int = 1,
    before: Callable[[str], None] = lambda name: None,
    say: Callable[[str], None] = print,
) -> str:
    """Take `steps` one after the other, from number `first`; the name of the one that failed, or nothing.

    `before` is called with the name of each step before it is taken.
    """
    for number, step in enumerate(steps, first):
        before(step.name)
        begun = time.monotonic()
        try:
            seen = step.run(story)
        except (StepFailed, ControllerEnded) as failure:
            say(f"{number:2}  {step.title:<36}FAILED after {time.monotonic() - begun:.1f} s")
            say(f"    {failure}")
            if tail := story.machine.log_tail("controller", 8):
                say("    the end of controller.log:\n      " + tail.replace("\n", "\n      "))
            return step.name
        say(f"{number:2}  {step.title:<36}{time.monotonic() - begun:6.2f} s  {seen}")
    return ""


def hints(story: Story) -> list[str]:
    """What to try while the demo waits."""
    lines = ["status", "se list", f"se show {ENGINES[0]}", f"run {ENGINES[0]} dataplane", f"ssh {ENGINES[0]} -- status"]
    lines += ["logs pull -l site=demo", "logs query --every 1m --percentile 99", "logs tail"]
    return [
        f"export AVINET_SOCKET={story.machine.socket} PATH={Path(sys.executable).parent}:$PATH",
        *(f"avictl {line}" for line in lines),
        *(f"curl http://127.0.0.1:{port}/   # through {engine}" for engine, port in story.service_ports.items()),
    ]


def check_machine(store: str) -> None:
    """Say at once what the demo cannot do without."""
    needed = [("OpenSSH's client", ("ssh", "-V"), "openssh-client")]
    if store == "etcd":
        needed.append(("etcd", ("etcd", "--version"), "etcd-server"))
    for what, command, package in needed:
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise SystemExit(f"the demo needs {what}: install it (Debian: {package})") from None
