"""The trials of outages, without a process: what is sent when, and the table."""

from __future__ import annotations

from chaos.peers.outages import CONTESTANTS, toml_line
from chaos.peers.troubles import COLUMNS, TROUBLES, TroubleRow, is_repeated, sends, table


def test_every_message_is_sent_once_and_some_of_them_twice() -> None:
    for trouble in TROUBLES:
        sent = [n for _, numbers in sends(trouble) for n in numbers]
        twice = [n for n in range(trouble.messages) if is_repeated(trouble, n)]
        assert sorted(sent) == sorted([*range(trouble.messages), *twice])
        assert len(twice) == round(trouble.repeats * trouble.messages)


def test_second_copies_come_a_second_later() -> None:
    (repeat,) = [trouble for trouble in TROUBLES if trouble.repeats]
    first = {n: at for at, numbers in reversed(list(sends(repeat))) for n in numbers}
    last = {n: at for at, numbers in sends(repeat) for n in numbers}
    assert {last[n] - first[n] for n in range(repeat.messages) if is_repeated(repeat, n)} == {1.0}


def test_every_row_is_in_the_table() -> None:
    rows = [TroubleRow(program.name, "outage", messages=1_234) for program in CONTESTANTS]
    rows.append(TroubleRow("celery", "repeat", failure="it did not start"))
    text = "\n".join(table(rows))
    assert text.count("1234") == len(CONTESTANTS)
    assert "it did not start" in text
    assert all(name.replace("_", " ") in text for name in COLUMNS)


def test_the_rate_is_told_only_where_it_is_meant_to_be() -> None:
    assert [trouble.name for trouble in TROUBLES if trouble.told] == ["told"]
    assert toml_line("rate", "14/s") == 'rate = "14/s"\n'
