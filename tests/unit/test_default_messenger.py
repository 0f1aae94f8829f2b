"""Programs as users write them, each run in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

APP = """
    from dataclasses import dataclass
    import bus

    @dataclass(frozen=True)
    class Hello:
        name: str

    @bus.handler
    def greet(hello: Hello) -> None:
        print(f"hello {hello.name}\\n", end="")
"""


@pytest.fixture
def run(tmp_path):
    def run(*command: str, **files: str) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_a_one_file_program_without_configuration_handles_here(run):
    done = run("app.py", app__py=textwrap.dedent(APP) + "\nbus.dispatch(Hello('world'))\n")

    assert (done.stdout, done.stderr) == ("hello world\n", "")


def test_a_one_file_program_that_its_configuration_imports_is_not_imported_twice(run):
    program = textwrap.dedent(APP) + textwrap.dedent("""
        print("running", __name__)
        if __name__ == "__main__":
            bus.dispatch(Hello("world"))
    """)

    done = run("app.py", app__py=program, messenger__yaml="messenger:\n  imports: [app]\n")

    assert (done.stdout, done.stderr) == ("running __main__\nhello world\n", "")


def test_a_class_of_main_is_named_by_its_path_below_the_working_directory(run, tmp_path):
    program = textwrap.dedent(APP) + textwrap.dedent("""
        if __name__ == "__main__":
            from bus.messages import wire_name
            print(wire_name(Hello))
    """)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text(program)

    assert run("shop/app.py").stdout == "shop.app.Hello\n"
    assert run("-m", "shop.app").stdout == "shop.app.Hello\n"


def test_sending_a_class_of_main_without_a_path_asks_for_a_name(run):
    program = textwrap.dedent(APP) + "\nbus.dispatch(Hello('world'), [bus.TransportNamesStamp('queue')])\n"
    configuration = "messenger:\n  transports: {queue: 'in-memory://'}\n"

    done = run("-c", program, messenger__yaml=configuration)

    assert done.returncode == 1
    assert '@message("some.name")' in done.stderr


def test_a_dispatch_while_the_configuration_is_loading_names_the_module(run):
    shop = textwrap.dedent(APP) + "\nbus.dispatch(Hello('too early'))\n"

    done = run(
        "-c", "import bus\nbus.dispatch(object())", shop__py=shop, messenger__yaml="messenger:\n  imports: [shop]\n"
    )

    assert done.returncode == 1
    assert 'The module "shop" dispatches while it is being imported' in done.stderr


def test_threads_that_dispatch_first_load_the_configuration_once(run):
    program = """
        import threading, bus
        def send():
            import shop
            bus.dispatch(shop.Hello("thread"))
        threads = [threading.Thread(target=send) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    shop = "print('imported')\n" + textwrap.dedent(APP)

    done = run("-c", textwrap.dedent(program), shop__py=shop, messenger__yaml="messenger:\n  imports: [shop]\n")

    # Threads that print at once may mix their line ends.
    assert sorted(filter(None, done.stdout.replace("thread", "thread\n").splitlines())) == [
        *["hello thread"] * 8,
        "imported",
    ]
    assert done.stderr == ""


def test_a_module_that_does_not_exist_is_named_with_its_place(run):
    done = run("-c", "import bus; bus.dispatch(1)", messenger__yaml="messenger:\n  imports:\n    - shpo.handlers\n")

    assert done.returncode == 1
    assert "messenger.yaml:3:7" in done.stderr
    assert 'there is no module "shpo"' in done.stderr


def test_importing_the_package_imports_no_client_library():
    program = "import sys, bus; print(sorted({'sqlalchemy', 'yaml', 'click', 'rich', 'asyncio'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "[]\n"


def test_a_handler_of_a_worker_dispatches_on_the_configuration_of_the_worker(run):
    shop = textwrap.dedent(APP) + textwrap.dedent("""
        @dataclass(frozen=True)
        class Greeted:
            name: str

        @bus.handler
        def on_greeted(greeted: Greeted) -> None: ...

        @bus.handler
        def tell(hello: Hello) -> None:
            bus.dispatch(Greeted(hello.name))
    """)
    configuration = (
        "messenger:\n  imports: [shop]\n  transports: {in: 'sqlite:///in.db', out: 'sqlite:///out.db'}\n"
        "  routing: {shop.Hello: in, shop.Greeted: out}\n"
    )
    command = ("-m", "bus", "--config", "other.yaml")
    run(*command, "dispatch", "shop.Hello", '{"name": "x"}', shop__py=shop, other__yaml=configuration)

    done = run(*command, "consume", "in", "--stop-when-empty")
    counted = run(*command, "stats", "out")

    assert done.returncode == 0
    assert counted.stdout.split()[-4:] == ["1", "0", "0", "0"]


def test_a_handler_of_a_messenger_made_in_python_dispatches_on_it_while_it_consumes(run):
    done = run(
        "app.py",
        app__py="""
            from dataclasses import dataclass
            import bus
            from bus import Limits, Messenger, MessengerConfig, TransportConfig, handler, message

            @message("order.placed")
            @dataclass(frozen=True)
            class Placed:
                id: str

            @message("order.billed")
            @dataclass(frozen=True)
            class Billed:
                id: str

            @handler
            def bill(event: Placed) -> None:
                bus.dispatch(Billed(event.id))

            config = MessengerConfig(
                transports={name: TransportConfig(dsn="in-memory://") for name in ("orders", "bills")},
                routing={"order.placed": ("orders",), "order.billed": ("bills",)},
            )
            with Messenger(config) as messenger:
                messenger.dispatch(Placed("1"))
                messenger.consume(["orders"], limits=Limits(messages=1))
                print(messenger.stats(["bills"])[0].counts.ready)
        """,
    )

    assert (done.stdout, done.stderr) == ("1\n", "")
