"""Private RabbitMQ brokers: own node, ports, data and name server, so that tests may do to them what they like."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers import ports
from tests.servers.guard import PATIENCE, Guarded

BINARIES = Path("/usr/lib/rabbitmq/bin")
USER = "guest"
_PORTS = 10  # AMQP, distribution, name server, TLS, management, and the rest for rabbitmqctl
_COOKIE = "only-for-tests"


def missing() -> str | None:
    """Say what of RabbitMQ is not installed."""
    if not (BINARIES / "rabbitmq-server").exists():
        return f"RabbitMQ is not installed: there is no {BINARIES}/rabbitmq-server (scripts/services installs it)"
    if not _erlang("erl_call"):
        return (
            "RabbitMQ cannot be controlled: there is no erl_call below /usr/lib/erlang (scripts/services installs it)"
        )
    return None


def _erlang(program: str) -> str | None:
    return next((str(each) for each in Path("/usr/lib/erlang").glob(f"erts-*/bin/{program}")), None)


class RabbitMq:
    """A broker in a folder. After ``kill`` or ``stop``, ``start`` brings it back with its data."""

    def __init__(
        self, folder: Path, configuration: Mapping[str, str] | None = None, plugins: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self._resources = ExitStack()
        self.port = self._resources.enter_context(ports.reserved(ports.RABBITMQ, _PORTS))
        self.tls_port, self.management_port = self.port + 3, self.port + 4
        self._node = f"bus-{self.port}@localhost"
        # What a killed test run has left behind may still look for a virtual host of its own on this port.
        self._vhosts = map(f"test-{secrets.token_hex(4)}-{{}}".format, itertools.count(1))
        self._broker: Guarded | None = None
        self._environment = self._prepare(configuration or {}, plugins)
        # Started here, because the broker would start one that outlives it.
        self._names = Guarded([str(_erlang("epmd"))], self._environment, folder / "epmd.txt")
        self._resources.callback(self._names.end)

    def _prepare(self, configuration: Mapping[str, str], plugins: Sequence[str]) -> dict[str, str]:
        lines = {"listeners.tcp.1": f"127.0.0.1:{self.port}", **configuration}
        if "rabbitmq_management" in plugins:
            lines |= {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(self.management_port)}
        (self.folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (self.folder / "plugins").write_text(f"[{','.join(plugins)}].\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)
        return {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.port + 2),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.port + 1),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self.port + 5),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self.port + _PORTS - 1),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # The script becomes the broker's process, instead of its parent.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Idle schedulers sleep; by default they spin for a while, at the expense of everybody else here.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    # --- its life ---

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        assert self._broker is None, "it runs already"
        self._broker = Guarded([str(BINARIES / "rabbitmq-server")], self._environment, self.folder / "output.txt")
        self._wait_until_it_runs()

    def stop(self) -> None:
        """Stop it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        broker, self._broker = self._running, None
        broker.send(number)
        broker.wait()

    def freeze(self) -> None:
        """Stop its process in its tracks; its connections stay open and silent."""
        self._running.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.send(signal.SIGCONT)

    def close(self) -> None:
        """End it and everything that was started for it."""
        if self._broker is not None:
            self._broker.end()
            self._broker = None
        self._resources.close()

    @property
    def _running(self) -> Guarded:
        assert self._broker is not None, "it does not run"
        return self._broker

    def _wait_until_it_runs(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._call("rabbit:is_running().").stdout != "{ok, true}":
            assert self._running.alive, f"RabbitMQ has ended:\n{self.output}"
            assert time.monotonic() < deadline, f"RabbitMQ did not start in {PATIENCE:g} s:\n{self.output}"
            time.sleep(0.05)

    @property
    def output(self) -> str:
        """Return what it printed, the last 4,000 characters."""
        return (self.folder / "output.txt").read_text(errors="replace")[-4000:]

    # --- its use ---

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def url(self, vhost: str = "/", port: int | None = None) -> str:
        """Return the DSN of a virtual host, perhaps through a proxy on another port."""
        name = "%2f" if vhost == "/" else vhost
        return f"amqp://{USER}:{USER}@127.0.0.1:{port or self.port}/{name}"

    def make_vhost(self) -> str:
        """Make a new and empty virtual host; return its name."""
        name = next(self._vhosts)
        self.evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"{USER}">>), '
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"{name}">>, '
            f'<<".*">>, <<".*">>, <<".*">>, <<"{USER}">>).'
        )
        return name

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all its queues; its connections are closed."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"{USER}">>).')

    @property
    def version(self) -> str:
        return self.evaluate("rabbit_misc:version().").strip('"')

    # --- its control ---

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression in the broker; return its value as Erlang prints it."""
        answer = self._call(expression)
        assert answer.stdout.startswith("{ok, "), f"{expression} gives {answer.stdout}{answer.stderr}"
        return answer.stdout.removeprefix("{ok, ").removesuffix("}")

    def _call(self, expression: str) -> subprocess.CompletedProcess[str]:
        command = [str(_erlang("erl_call")), "-sname", self._node, "-c", _COOKIE, "-timeout", "30", "-e"]
        return subprocess.run(
            command,
            input=f"{expression}\n",
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl, which takes about a second; return what it printed."""
        command = [str(BINARIES / "rabbitmqctl"), "--quiet", *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout

    def stop_app(self) -> None:
        """Stop RabbitMQ within the running Erlang node, as rabbitmqctl's stop_app does."""
        self.ctl("stop_app")

    def start_app(self) -> None:
        self.ctl("start_app")

    def close_all_connections(self) -> int:
        """Close all AMQP connections from the broker's side; return how many there were."""
        return int(
            self.evaluate(
                'length([rabbit_networking:close_connection(Each, "closed by a test") '
                "|| Each <- rabbit_networking:connections()])."
            )
        )

    @contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """Have the broker block all connections that publish."""
        before = self.evaluate("vm_memory_monitor:get_vm_memory_high_watermark().")
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.0000001).")
        try:
            yield
        finally:
            self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({before}).")

    def set_consumer_timeout(self, milliseconds: int) -> None:
        """Close channels that hold a delivery for longer. Looked at every 2 s."""
        self.evaluate(
            "application:set_env(rabbit, channel_tick_interval, 2000), "
            f"application:set_env(rabbit, consumer_timeout, {milliseconds})."
        )

    def messages(self, vhost: str) -> int:
        """Return how many messages a virtual host has, in whatever queue and state, exactly."""
        in_quorum_queue = "ra:leader_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1)"
        in_queue = (
            "case amqqueue:get_type(Q) of "
            # One that has no leader yet does not answer, and may have something.
            f"rabbit_quorum_queue -> case {in_quorum_queue} of {{ok, {{_, Count}}, _}} -> Count; _ -> 1 end; "
            "_ -> proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages])) end"
        )
        return int(self.evaluate(f'lists:sum([{in_queue} || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]).'))

    def queues(self, vhost: str) -> dict[str, int]:
        """Return the queues of a virtual host and how many messages each has, in whatever state."""
        printed = self.ctl("list_queues", "--vhost", vhost, "--no-table-headers", "name", "messages")
        return {name: int(count) for name, count in (line.rsplit("\t", 1) for line in printed.splitlines())}
