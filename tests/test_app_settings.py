"""The page's state as a value, and as the query of its address."""

from urllib.parse import parse_qsl

import pytest
from catalogue import CARDS
from hypothesis import given
from hypothesis import strategies as st
from messages import UserError
from settings import CHANNELS, MODELS, SITES, VIEWS, WAVELETS, Settings, bands, key_of_names, pair_of
from ui import dimmed

SOUND = st.builds(
    lambda settings, band: Settings(
        **{**settings, "band": bands(settings["levels"])[band % len(bands(settings["levels"]))]}
    ),
    st.fixed_dictionaries(
        {
            "view": st.sampled_from(VIEWS),
            "pair": st.sampled_from(["bundled", "run|mine", "timm|resnet18|vit_tiny_patch16_224.augreg_in21k|random"]),
            "image": st.sampled_from(["test:0", "test:239", "mean:24", "photo:cat", "upload:abcdefghijklmnop_-12"]),
            "layer": st.sampled_from(["", "layers.0 ↔ stages.0", "blocks.11 ↔ layer4"]),
            "wavelet": st.sampled_from(WAVELETS),
            "levels": st.integers(1, 4),
            "channel": st.sampled_from(list(CHANNELS)),
            "number": st.integers(0, 4095),
            "sigma": st.integers(2, 70).map(lambda n: n / 100),
            "model": st.sampled_from(list(MODELS)),
            "site": st.sampled_from(SITES),
            "job": st.sampled_from(["", "mine", "run-2.b"]),
        }
    ),
    st.integers(0, 20),
)


@given(SOUND)
def test_an_address_opens_what_it_was_made_from(settings):
    settings = settings.valid()
    assert Settings.read(dict(parse_qsl(settings.query()))) == (settings, [])


def test_the_usual_needs_no_address():
    assert Settings().query() == ""
    assert Settings.read({}) == (Settings(), [])


def test_an_address_is_readable():
    settings = Settings(view="Gaussian masks", layer="layers.0 ↔ stages.0", channel="one channel", number=7, sigma=0.1)
    assert settings.query() == "view=gaussian-masks&layer=layers.0,stages.0&channel=7&sigma=0.1"


@given(
    st.dictionaries(
        st.sampled_from([*Settings.__dataclass_fields__, "run", "teacher", "student", "weights", "x"]), st.text()
    )
)
def test_any_address_gives_sound_settings(query):
    settings, refused = Settings.read(query)
    assert settings == settings.valid()
    assert set(refused) <= {*Settings.__dataclass_fields__, *query}


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ({"view": "nowhere"}, ["view"]),
        ({"run": "../../etc"}, ["pair"]),
        ({"run": "a/b"}, ["pair"]),
        ({"teacher": "resnet18"}, ["teacher"]),
        ({"teacher": "hf-hub:a", "student": "resnet18"}, ["pair"]),
        ({"sigma": "nan"}, ["sigma"]),
        ({"sigma": "1e9"}, ["sigma"]),
        ({"levels": "two", "wavelet": "haar"}, ["levels"]),
        ({"band": "H3", "levels": "2"}, ["band"]),
        ({"channel": "99999999"}, ["channel"]),
        ({"image": "file:/etc/passwd"}, ["image"]),
        ({"fbclid": "1", "__theme": "dark"}, ["fbclid"]),
    ],
)
def test_what_cannot_be_used_is_named_and_left_out(query, refused):
    settings, told = Settings.read(query)
    assert told == refused
    assert settings == Settings()


ANYTHING = st.one_of(st.none(), st.text(), st.floats(), st.lists(st.none()))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(vars(Settings()), ANYTHING)))
def test_whatever_a_browser_sends_is_sound_settings(values):
    settings = Settings.of(values)
    assert settings == settings.valid()
    assert Settings.of(vars(settings)) == settings


def test_numbers_out_of_range_become_the_nearest():
    settings = Settings.of({"channel": "one channel", "number": -1, "sigma": 5})
    assert (settings.channel, settings.number, settings.sigma) == ("one channel", 0, 0.7)
    assert Settings.of({"sigma": float("nan")}).sigma == Settings().sigma


def test_a_pair_lends_its_layers_and_models():
    settings = Settings(layer="gone ↔ away", model="alone").of_pair(["teacher", "student"], ["a ↔ b", "c ↔ d"])
    assert (settings.layer, settings.model) == ("a ↔ b", "student")
    assert settings.brief(["teacher", "student"], ["a ↔ b", "c ↔ d"]) == Settings()


def test_names_of_models():
    assert (
        key_of_names(" resnet18 ", "vit_tiny_patch16_224", pretrained=False)
        == "timm|resnet18|vit_tiny_patch16_224|random"
    )
    for teacher, message in (
        ("", "Type two timm model names"),
        ("local-dir:/etc", "timm names only"),
        ("a|b", "timm names"),
    ):
        with pytest.raises(UserError, match=message):
            key_of_names(teacher, "resnet18", pretrained=True)
    assert pair_of("timm|resnet18|resnet34|yes") is None


def test_every_view_has_its_card_and_its_style():
    assert all(card.question.endswith((".", "?")) and card.figures for card in CARDS.values())
    style = dimmed()
    assert "body[data-view='gaussian-masks'] #wavelet" in style
    assert "body[data-view='gaussian-masks'] #sigma" not in style
