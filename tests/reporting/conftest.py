import pytest
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Every figure that is written, as it was drawn."""
    written, savefig = [], Figure.savefig

    def keep(figure, *words, **more):
        written.append(figure)
        savefig(figure, *words, **more)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written
