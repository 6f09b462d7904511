"""Addresses of pictures: only those that were given out lead to a picture."""

import base64

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from nosnja_gui.ui.pictures import PREFIX, Pictures


@pytest.fixture
def served(tmp_path):
    pictures = Pictures(tmp_path / "thumbnails")
    Image.new("RGB", (900, 300), "red").save(tmp_path / "red 1.png")
    return pictures, TestClient(Starlette(routes=[pictures.route()])), tmp_path


def test_a_picture_is_shown_whole_and_as_a_thumbnail(served):
    pictures, client, folder = served
    whole = client.get(pictures.url(folder / "red 1.png"))
    assert whole.status_code == 200 and whole.headers["content-type"] == "image/png"
    assert whole.content == (folder / "red 1.png").read_bytes()
    small = client.get(pictures.url(folder / "red 1.png", 160))
    (folder / "small.jpg").write_bytes(small.content)
    with Image.open(folder / "small.jpg") as opened:
        assert opened.size == (160, 53)
    assert "immutable" in small.headers["cache-control"]


def test_formats_that_browsers_do_not_know_are_converted(served):
    pictures, client, folder = served
    Image.new("CMYK", (50, 40)).save(folder / "print.tif")
    assert client.get(pictures.url(folder / "print.tif")).headers["content-type"] == "image/jpeg"


def test_a_changed_picture_has_another_address(served):
    pictures, client, folder = served
    before = pictures.url(folder / "red 1.png", 160)
    Image.new("RGB", (300, 300), "blue").save(folder / "red 1.png")
    after = pictures.url(folder / "red 1.png", 160)
    assert before != after and client.get(before).content == client.get(after).content


def test_nothing_else_is_served(served):
    pictures, client, folder = served
    (folder / "secret.png").write_bytes(b"secret")
    address = pictures.url(folder / "red 1.png", 160)
    signature, name = address.split("/")[3], address.split("/")[5].partition("?")[0]
    other = base64.urlsafe_b64encode(str(folder / "secret.png").encode()).decode()
    for tried in (
        f"{PREFIX}/{signature}/160/{other}",
        f"{PREFIX}/{signature}/0/{name}",
        f"{PREFIX}/{'0' * 40}/160/{name}",
        f"{PREFIX}/{signature}/160/not-base64!",
        f"{PREFIX}/{signature}/-1/{name}",
        f"{PREFIX}/{signature}/../../secret.png",
    ):
        assert client.get(tried).status_code in (404, 405), tried
    assert Pictures(folder / "other").url(folder / "red 1.png", 160) != address, "another window's key gives other addresses"


def test_what_is_no_picture_is_refused(served):
    pictures, client, folder = served
    (folder / "text.png").write_text("no picture")
    assert client.get(pictures.url(folder / "text.png", 160)).status_code == 404
    assert client.get(pictures.url(folder / "missing.png")).status_code == 404
    assert client.get(pictures.url(folder)).status_code == 404
