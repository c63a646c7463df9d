"""What a stack remembers, and what it says about settings that it cannot use."""

import socket
from pathlib import Path

import pytest

from stdweb.settings import StackError, StackSettings, StackState
from stdweb.stack import commands
from stdweb.stack.rabbit import RabbitNode


def test_state_is_kept_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    state = StackState.open(tmp_path)
    state.choose_ports()
    state.save()
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600
    assert StackState.load(tmp_path) == state


def test_secrets_differ_between_stacks(tmp_path: Path) -> None:
    one, other = StackState(folder=tmp_path), StackState(folder=tmp_path)
    for name in ("mark", "broker_password", "cookie", "demo_password"):
        assert getattr(one, name) != getattr(other, name)


def test_ports_are_remembered_unless_taken(tmp_path: Path) -> None:
    state = StackState(folder=tmp_path)
    state.choose_ports()
    before = dict(state.ports)
    assert len(set(before.values())) == len(before)
    with socket.socket() as other:
        other.bind(("127.0.0.1", before["amqp"]))
        other.listen()
        state.choose_ports()
    assert state.ports["amqp"] != before["amqp"]
    assert {name: port for name, port in state.ports.items() if name != "amqp"} == {
        name: port for name, port in before.items() if name != "amqp"
    }


def test_a_broker_keeps_its_name_when_its_ports_change(tmp_path: Path) -> None:
    # what it keeps is in a folder of that name, and bound to it
    before, after = (RabbitNode(tmp_path, port, port + 1, port + 2, "p", "c").environment for port in (5000, 6000))
    assert before["RABBITMQ_NODENAME"] == after["RABBITMQ_NODENAME"]
    assert before["ERL_EPMD_PORT"] != after["ERL_EPMD_PORT"]


def test_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    with pytest.raises(StackError, match=r"stack\.json is damaged"):
        StackState.load(tmp_path)


def test_unknown_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDWEB_PROT", "8001")
    with pytest.raises(StackError, match="STDWEB_PROT"):
        StackSettings.read()


def test_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDWEB_PORT", "eighty")
    with pytest.raises(StackError, match="STDWEB_PORT"):
        StackSettings.read()


def test_a_taken_port_is_said_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("STDWEB_PORT", str(port))
        with pytest.raises(StackError, match=f"Port {port} is taken"):
            commands.up(tmp_path)
    assert not (tmp_path / "supervisor.pid").exists()


def test_down_without_a_stack_does_nothing(tmp_path: Path) -> None:
    assert commands.down(tmp_path) is False
    assert commands.report(tmp_path) is None
