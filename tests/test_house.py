"""The picture docs/house.svg shows the wings and imports of the sources."""

import importlib.util

from conftest import ROOT


def drawing():
    """Import docs/draw_house.py."""
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs" / "draw_house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_what_the_script_draws():
    house = drawing()
    assert house.PICTURE.read_text() == house.draw(), (
        "the wings or their imports have changed; draw them again: python docs/draw_house.py"
    )


def test_every_wing_and_file_is_in_it():
    house = drawing()
    picture = house.draw()
    for wing, files in house.WINGS.items():
        assert f">{wing}</text>" in picture
        assert wing in house.OPEN or all(name in picture for name in files)


def test_an_import_is_an_arrow_or_follows_from_arrows():
    house = drawing()
    edges = house.wings_imported()
    arrows = house.reduced(edges)
    reach = {}
    for wing in house.WINGS:
        reach[wing] = set(arrows[wing]).union(*(reach[other] for other in arrows[wing]))
        assert edges[wing] <= reach[wing]
