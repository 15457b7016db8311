"""A fit that was broken off has never been; thresholds belong to the fit that made them; continuing continues."""

from copy import deepcopy

import pytest
import torch
from lightning import Callback, LightningModule
from torch import nn

from anomalib_nb.core.io import read_json
from anomalib_nb.core.types import Prediction
from anomalib_nb.data import DemoData, Folder
from anomalib_nb.engine import Engine, FitStopped
from anomalib_nb.models import AnomalyModule, Tiled, learns_by, list_models, load_model
from anomalib_nb.models.check import sample_images, smallest
from anomalib_nb.models.zoo import MODELS
from anomalib_nb.processing.pre import PreProcessor

SIZE = 32


class Memory(AnomalyModule):
    "The mean of what it was shown, gathered in a list, a dict and a counter."

    transform = PreProcessor(size=SIZE)

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.empty(0))
        self.rows, self.about, self.count = [], {}, 0

    def training_step(self, batch, i):
        self.rows.append(batch.image.mean((0, 2, 3)))
        self.about[i], self.count = len(batch), self.count + 1

    def finalize(self):
        self.mean = torch.stack(self.rows).mean(0) + self.count
        self.rows, self.about, self.count = [], {}, 0

    def forward(self, image):
        if not self.mean.numel():
            raise RuntimeError("Not fitted yet. Call engine.fit(model, data) first.")
        anomaly_map = (image - self.mean[:, None, None]).abs().mean(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


class Gradient(AnomalyModule):
    "A convolution with batch norm that learns to say little of good images."

    transform = PreProcessor(size=SIZE)
    trainer_defaults = {"max_epochs": 2}

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def training_step(self, batch, i):
        return self.network(batch.image).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def forward(self, image):
        anomaly_map = self.network.eval()(image)[:, 0].square()
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


def made(name: str) -> AnomalyModule:
    "A small model, unfitted."
    if name.startswith("Tiled("):
        return Tiled(made(name[6:-1]), image_size=2 * SIZE - 8, tile=SIZE)
    own = {"Memory": Memory, "Gradient": Gradient}
    model = own[name]() if name in own else smallest(MODELS.get(name))
    if name not in own:
        model.pre.size = SIZE
    return model


NAMES = [*(name for name in list_models() if name != "Tiled"), "Memory", "Gradient", "Tiled(Memory)", "Tiled(Gradient)", "Tiled(PatchCore)"]


class Break(Callback):
    "Raise an error at some moment of a fit."

    def __init__(self, moment: str, error: BaseException):
        self.moment, self.error = moment, error

    def at(self, moment: str) -> None:
        if moment == self.moment:
            raise self.error

    def on_train_batch_start(self, trainer, module, batch, i):
        if self.moment == "selecting":
            module.finalize = lambda: self.at("selecting")
        if i == 1:
            self.at("training")

    def on_validation_batch_end(self, *args):
        self.at("validating")

    def on_validation_end(self, *args):
        self.at("after calibration")


WAYS = {
    "Ctrl-C while training": ("training", KeyboardInterrupt()),
    "Ctrl-C while selecting": ("selecting", KeyboardInterrupt()),
    "Ctrl-C while validating": ("validating", KeyboardInterrupt()),
    "stopped while training": ("training", FitStopped()),
    "a broken file": ("training", OSError("b.png cannot be read")),
    "an error after calibration": ("after calibration", RuntimeError("out of memory")),
}


def engine(folder, **more) -> Engine:
    return Engine(folder, accelerator="cpu", enable_progress_bar=False, **more)


def data(surface: str, **more) -> DemoData:
    return DemoData(surface=surface, train=8, test=8, size=48, train_batch_size=2, **more)


def state(model: AnomalyModule) -> dict:
    "All that a model is."
    plain = {n: v for n, v in vars(model).items() if isinstance(v, (list, dict, int, float, str)) and not n.startswith("_") and n not in vars(LightningModule())}
    return {"tensors": {n: v.clone() for n, v in model.state_dict().items()}, "post": str(model.post), "camera": model.camera,
            "plain": deepcopy({n: v for n, v in plain.items() if n not in ("untrained", "before")})}


def same(a: dict, b: dict) -> bool:
    tensors = a["tensors"].keys() == b["tensors"].keys() and all(torch.equal(v, b["tensors"][n]) for n, v in a["tensors"].items())
    return tensors and all(a[name] == b[name] for name in ("post", "camera")) and str(a["plain"]) == str(b["plain"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def fitted(results):
    "name -> (unfitted, fitted on metal, freshly fitted on wood)."
    known = {}

    def get(name):
        if name not in known:
            unfitted = made(name)
            metal, wood = deepcopy(unfitted), deepcopy(unfitted)
            engine(results).fit(metal, data("metal"))
            engine(results).fit(wood, data("wood"))
            known[name] = unfitted, metal, wood
        return known[name]

    return get


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_fit_that_breaks_off_leaves_nothing(name, way, fitted, results):
    unfitted, metal, _ = fitted(name)
    moment, error = WAYS[way]
    if moment == "selecting" and learns_by(unfitted) != "memory":
        return  # there is nothing to select
    for before in (unfitted, metal):
        model = deepcopy(before)
        then, trainer = state(model), engine(results, callbacks=[Break(moment, error)])
        with pytest.raises(type(error)):
            trainer.fit(model, data("wood"))
        assert same(state(model), then)
        assert read_json(trainer.run / "run.json")["status"] in ("failed", "interrupted", "stopped")


@pytest.mark.parametrize("name", NAMES)
def test_the_next_fit_starts_empty(name, fitted, results):
    unfitted, metal, wood = fitted(name)
    for before in (unfitted, metal):
        model = deepcopy(before)
        with pytest.raises(KeyboardInterrupt):
            engine(results, callbacks=[Break("training", KeyboardInterrupt())]).fit(model, data("metal"))
        engine(results).fit(model, data("wood"))
        assert same(state(model), state(wood))
    assert wood.learned_from == [{"data": data("wood").name, "images": 8}]


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_second_fit_does_not_change_what_is_predicted(name, fitted, results):
    _, metal, _ = fitted(name)
    model, images = deepcopy(metal), sample_images(3, SIZE)
    before = model.eval().predict_batch(images)
    with pytest.raises(FitStopped):
        engine(results, callbacks=[Break("validating", FitStopped())]).fit(model, data("wood"))
    run = engine(results).predict(model, data("metal"))
    after = model.eval().predict_batch(images)
    assert torch.equal(before.pred_score, after.pred_score) and torch.equal(before.pred_label, after.pred_label)
    assert run.attrs["fitted_on"] == metal.post.fitted_on


def test_a_training_file_is_repaired_and_the_same_object_fitted_again(tmp_path, results):
    from PIL import Image

    (tmp_path / "train" / "good").mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (40, 40), (i * 20, 90, 90)).save(tmp_path / "train" / "good" / f"{i}.png")
    whole = (tmp_path / "train" / "good" / "3.png").read_bytes()
    (tmp_path / "train" / "good" / "3.png").write_bytes(whole[:40])
    model, options = made("PatchCore"), dict(normal_dir="train/good", train_batch_size=1, val_split_mode="synthetic", test_split_mode="none")
    with pytest.raises(ValueError, match="3.png"):
        engine(results).fit(model, Folder(tmp_path, **options))
    (tmp_path / "train" / "good" / "3.png").write_bytes(whole)
    engine(results).fit(model, Folder(tmp_path, **options))
    fresh = made("PatchCore")
    engine(results).fit(fresh, Folder(tmp_path, **options))
    assert torch.equal(model.bank, fresh.bank)


def test_thresholds_belong_to_the_fit_that_made_them(fitted, results):
    _, metal, _ = fitted("Memory")
    model = deepcopy(metal)
    assert model.post.image_threshold == model.post.image_threshold
    with pytest.warns(UserWarning, match="no threshold: .* has no validation images .*val_split_mode is 'none'.* Take another"):
        engine(results).fit(model, data("wood", val_split_mode="none"))
    assert all(value != value for name, value in model.post.state_dict().items() if name.endswith(("threshold", "min", "max")))
    assert model.post.fitted_on == ""
    tested = engine(results).test(model, data("wood", val_split_mode="none"))
    assert tested.fitted_on == "" and "fitted on" not in tested._repr_html_()
    assert model.predict_batch(sample_images(2, SIZE)).pred_label is None


def test_painted_defects_are_told(fitted, results):
    model, painted = made("Memory"), data("metal", val_split_mode="synthetic")
    engine(results).fit(model, painted)
    assert "painted (synthetic) defects" in model.post.fitted_on
    tested = engine(results).test(model, painted)
    for said in (tested.fitted_on, tested._repr_html_(), str(tested.facts()), repr(model), model._repr_html_()):
        assert "painted (synthetic)" in said


def test_a_memory_does_not_go_on_from_a_checkpoint(fitted, results):
    model, fitter = made("PatchCore"), engine(results)
    run = fitter.fit(model, data("metal"))
    checkpoint = next((run / "checkpoints").iterdir())
    runs = sorted(results.rglob("run.json"))
    for trained in (model, made("PatchCore")):
        with pytest.raises(ValueError, match="nothing to go on with.*extend=True"):
            fitter.fit(trained, data("wood"), ckpt_path=checkpoint)
    assert sorted(results.rglob("run.json")) == runs  # nothing was noted


def test_a_memory_is_extended_when_asked(fitted, results):
    _, metal, wood = fitted("PatchCore")
    model = deepcopy(metal)
    engine(results).fit(model, data("wood"), extend=True)
    assert torch.equal(model.bank, torch.cat([metal.bank, wood.bank]))
    assert [each["data"] for each in model.learned_from] == [data("metal").name, data("wood").name]
    again = load_model(engine(results).last_run("PatchCore", data("wood")) / "model")
    assert again.learned_from == model.learned_from
    with pytest.raises(ValueError, match="Memory cannot be extended"):
        engine(results).fit(deepcopy(fitted("Memory")[1]), data("wood"), extend=True)


def test_a_gradient_goes_on_while_epochs_are_left(fitted, results):
    model = made("Gradient")
    run = engine(results).fit(model, data("metal"))
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    with pytest.raises(ValueError, match="learned for 2 epochs, and max_epochs is 2: none is left"):
        engine(results).fit(model, data("wood"), ckpt_path=checkpoint)
    engine(results, max_epochs=3).fit(model, data("wood"), ckpt_path=checkpoint)
    assert [each["data"] for each in model.learned_from][-1] == data("wood").name
    with pytest.raises(ValueError, match="checkpoint of Gradient. Expected one of PatchCore"):
        engine(results).fit(made("PatchCore"), data("metal"), ckpt_path=checkpoint)


def test_a_gradient_that_is_extended_goes_on_from_its_weights(fitted, results):
    _, metal, wood = fitted("Gradient")
    model = deepcopy(metal)
    engine(results).fit(model, data("wood"), extend=True)
    assert not torch.equal(model.network[0].weight, wood.network[0].weight)
    assert len(model.learned_from) == 2


def test_a_fit_that_showed_nothing_is_none(fitted, results):
    model = deepcopy(fitted("Gradient")[1])
    then = state(model)
    with pytest.raises(ValueError, match="Nothing was learned"):
        engine(results, limit_train_batches=0).fit(model, data("wood"))
    assert same(state(model), then)


def test_a_monitor_that_does_not_exist_is_named(results):
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    for callback in (EarlyStopping("val_loss"), ModelCheckpoint(monitor="val_loss")):
        with pytest.raises(ValueError, match="monitors 'val_loss', which this fit does not log. It logs"):
            engine(results, callbacks=[callback]).fit(made("Gradient"), data("metal"))


def test_doors_of_the_engine(fitted, results, tmp_path):
    _, metal, _ = fitted("Memory")
    with pytest.raises(ValueError, match="devices is 2.*Expected devices=1"):
        engine(results, devices=2).fit(made("Memory"), data("metal"))
    with pytest.raises(TypeError, match="The model is a DemoData.*then the data"):
        engine(results).fit(data("metal"), made("Memory"))
    with pytest.raises(TypeError, match="The data are a list"):
        engine(results).fit(made("Memory"), ["a.png"])
    with pytest.raises(FileNotFoundError, match="no folder"):
        engine(results).fit(made("Memory"), tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no finished fit"):
        engine(tmp_path).last_run()
    with pytest.raises(ValueError, match="image size is"):
        metal.pre.size = 3.5
    with pytest.raises(ValueError, match="no threshold setting 'image_treshold'.*Did you mean 'image_threshold'"):
        metal.post.image_treshold = 1
