"""Commands as a user types them, in this process."""

from ropewalk.cli.main import run


def said(capsys, *words) -> str:
    """What a command that does its work prints."""
    code = run(list(map(str, words)))
    captured = capsys.readouterr()
    assert code == 0, captured.err or captured.out
    return captured.out


def refused(capsys, *words) -> str:
    """What a command says that does nothing."""
    assert run(list(map(str, words))) == 2
    return capsys.readouterr().err
