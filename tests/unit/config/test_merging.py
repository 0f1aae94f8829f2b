"""``when@ENV`` sections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bus.config.loader import Loaded
from bus.config.schema import MiddlewareConfig
from bus.retry import RetryPolicy

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]

APPLICATION = """\
framework:
  messenger:
    imports: [shop.handlers]
    failure_transport: failed
    transports:
      async:
        dsn: 'amqp://localhost/%2f/messages'
        options: {exchange: {name: shop, type: topic}, auto_setup: true}
        retry_strategy: {max_retries: 9, delay: 5}
      failed: 'doctrine://default?queue_name=failed'
    routing:
      shop.A: [async, failed]
    buses:
      main.bus: {middleware: [shop:One, shop:Two], default_middleware: {allow_no_handlers: true}}
    stop_worker_on_signals: [SIGTERM]
    serializer: {symfony_serializer: {context: {a: 1}}}
"""


def merged(load: Load, section: str, root: str = "framework: {messenger: %s}") -> Loaded:
    return load(f"{APPLICATION}\nwhen@prod:\n  {root % section}", APP_ENV="prod")


def test_a_section_counts_in_its_environment_only(load: Load) -> None:
    text = APPLICATION + "when@prod: {framework: {messenger: {store: 'sql://prod'}}}"

    assert load(text, APP_ENV="prod").config.store == "sql://prod"
    assert load(text, APP_ENV="test").config.store == load(text).config.store == "sql://default"


def test_maps_are_merged_key_by_key(load: Load) -> None:
    config = merged(load, "{transports: {async: {retry_strategy: {delay: 7}}, more: 'sync://'}}").config

    assert list(config.transports) == ["async", "failed", "more"]
    assert config.transports["async"].dsn == "amqp://localhost/%2f/messages"
    assert config.transports["async"].retry == RetryPolicy(max_retries=9, delay=7)


def test_a_dsn_alone_is_merged_into_the_map_that_it_stands_for(load: Load) -> None:
    transport = merged(load, "{transports: {async: 'amqp://broker/%2f/messages'}}").config.transports["async"]

    assert transport.dsn == "amqp://broker/%2f/messages"
    assert transport.options == {"exchange": {"name": "shop", "type": "topic"}, "auto_setup": True}
    assert transport.retry.max_retries == 9


def test_each_option_is_replaced_as_a_whole(load: Load) -> None:
    transport = merged(load, "{transports: {async: {options: {exchange: {name: new}}}}}").config.transports["async"]

    assert transport.options == {"exchange": {"name": "new"}, "auto_setup": True}


@pytest.mark.parametrize("dsn", ["in-memory://", "sync://"])
def test_the_options_of_a_broker_stay_behind_when_a_transport_moves_into_memory(dsn: str, load: Load) -> None:
    transport = merged(load, f"{{transports: {{async: '{dsn}'}}}}").config.transports["async"]

    assert transport.options == {}
    assert transport.retry.max_retries == 9


def test_the_senders_of_a_message_are_replaced(load: Load) -> None:
    config = merged(load, "{routing: {shop.A: failed, shop.B: async}}").config

    assert config.routing == {"shop.A": ("failed",), "shop.B": ("async",)}


def test_the_middleware_of_a_bus_is_replaced(load: Load) -> None:
    bus = merged(load, "{buses: {main.bus: {middleware: [shop:Three]}}}").config.buses["main.bus"]

    assert bus.middleware == (MiddlewareConfig(name="shop:Three"),)
    assert bus.allow_no_handlers is True


def test_signals_are_added_as_in_symfony_and_so_are_imports(load: Load) -> None:
    loaded = merged(load, "{imports: shop.more, stop_worker_on_signals: [SIGQUIT]}")

    assert loaded.config.imports == ("shop.handlers", "shop.more")
    assert any("stop_worker_on_signals" in note for note in loaded.notes)


def test_a_value_is_replaced_and_null_takes_it_away(load: Load) -> None:
    assert merged(load, "{failure_transport: async}").config.failure_transport == "async"
    assert merged(load, "{failure_transport: ~}").config.failure_transport is None


def test_unset_stays_unset_while_merging_and_defaults_come_last(load: Load) -> None:
    bus = merged(load, "{buses: {main.bus: {default_middleware: {allow_no_senders: false}}}}").config.buses["main.bus"]

    assert (bus.allow_no_handlers, bus.allow_no_senders, bus.default_middleware) == (True, False, True)


def test_a_flag_is_merged_into_the_map_that_it_stands_for(load: Load) -> None:
    text = "messenger: {buses: {b: {default_middleware: {allow_no_handlers: true}}}}\n"

    bus = load(text + "when@dev: {messenger: {buses: {b: {default_middleware: false}}}}").config.buses["b"]

    assert (bus.default_middleware, bus.allow_no_handlers) == (False, True)


def test_each_value_keeps_the_position_at_which_it_was_written(load: Load) -> None:
    config = merged(load, "{transports: {async: {retry_strategy: {delay: 7}}}}").config

    assert config.locations["transports.async.retry_strategy.max_retries"].startswith("messenger.yaml:9:")
    assert config.locations["transports.async.retry_strategy.delay"].startswith("messenger.yaml:19:")


def test_a_section_may_use_the_other_root(load: Load) -> None:
    assert merged(load, "{store: 'sql://x'}", root="messenger: %s").config.store == "sql://x"


def test_everything_may_stand_in_sections(load: Load, problems: Problems) -> None:
    text = "when@dev: {messenger: {store: 'sql://x'}}"

    assert load(text).config.store == "sql://x"
    assert problems(text, APP_ENV="prod") == [
        'messenger.yaml:1:1: there is no "messenger:", at the top or under "framework:"'
    ]


def test_parameters_are_merged_too(load: Load) -> None:
    text = """\
        parameters: {database: general, table: t}
        messenger: {store: 'sql://%database%/%table%'}
        when@dev: {parameters: {database: mine}}
        when@prod: {parameters: {database: theirs}}
        """

    assert load(text).config.store == "sql://mine/t"
    assert load(text, APP_ENV="prod").config.store == "sql://theirs/t"


def test_what_another_section_replaces_needs_no_variable(load: Load, problems: Problems) -> None:
    text = """\
        messenger: {transports: {async: '%env(DSN)%'}}
        when@test: {messenger: {transports: {async: 'in-memory://'}}}
        """

    assert load(text, APP_ENV="test").config.transports["async"].dsn == "in-memory://"
    assert len(problems(text)) == 1


def test_sections_of_other_environments_are_checked_without_their_variables(load: Load, problems: Problems) -> None:
    text = "messenger: {transports: {async: 'sync://'}}\nwhen@prod: {messenger: {transports: {async: {%s}}}}"

    load(text % "dsn: '%env(PROD_DSN)%', options: '%env(json:OPTIONS)%', max_deliveries: '%env(int:MOST)%'")
    assert problems(text % "dns: 'amqp://broker', max_deliveries: 0") == [
        'messenger.yaml:2:46 when@prod.transports.async: unknown key "dns"; did you mean "dsn"?',
        "messenger.yaml:2:84 when@prod.transports.async.max_deliveries: expected a whole number from 1, but it is 0",
    ]


def test_notes_on_sections_of_other_environments_are_not_shown(load: Load) -> None:
    text = "framework: {messenger: {}}\nwhen@test: {framework: {test: true}, doctrine: {}}"

    assert load(text).notes == ()
    assert len(load(text, APP_ENV="test").notes) == 2
