"""Speech and sound by architectures of transformers."""

import numpy as np
import transformers

import hub
import samples
from family import Family, Made, liven

GROUP = "speech"
VOCABULARY = 2048


def voices(rng, shape):
    return samples.normalized(samples.sounds(rng, *shape))


def plain_voices(rng, shape):
    return samples.sounds(rng, *shape)


def spectrogram(rng, shape):
    """Log mel features that move slowly, about -1..1."""
    coarse = rng.normal(0, 0.5, (*shape[:-1], shape[-1] // 10 + 2))
    return np.repeat(coarse, 10, axis=-1)[..., : shape[-1]] + rng.normal(0, 0.1, shape)


WAVE = [("input_values", voices), ("attention_mask", samples.constant(1))]
# A little more than a second; the files were traced with shorter inputs.
SECONDS = [{"batch_size": 2, "sequence_length": 12345}, {"batch_size": 1, "sequence_length": 17600}]
WAVES = {"num_hidden_layers": 2, "vocab_size": 32}
# Only the first has the real width.
NARROW = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}


def wave(name, kind, task, **options):
    return hub.one(name, GROUP, kind, task, WAVES | options, SECONDS, WAVE)


WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 384,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "pad_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "begin_suppress_tokens": None,
}
IDS = [("input_ids", samples.words(5, VOCABULARY)), ("decoder_input_ids", samples.words(5, VOCABULARY))]
SPEECH_RULES = [
    ("input_features", spectrogram),
    ("input_values", plain_voices),
    *IDS,
    ("*attention_mask", samples.constant(1)),
    ("encoder_hidden_states", samples.normal(0.5)),
    ("past_key_values*", samples.normal(0.7)),
]


def whisper_sizes(batch, encoder, decoder, past):
    return {
        "batch_size": batch,
        "feature_size": 80,
        "encoder_sequence_length": encoder,
        "encoder_sequence_length / 2": encoder // 2,
        "encoder_sequence_length_out": encoder // 2,
        "decoder_sequence_length": decoder,
        "past_decoder_sequence_length": past,
    }


def parts(prefix, sized, encoder_sizes):
    return [
        (f"{prefix}-encoder", "encoder_model", encoder_sizes, SPEECH_RULES, 0),
        (f"{prefix}-decoder", "decoder_model", [sized(2, 6, 0), sized(1, 4, 0)], SPEECH_RULES, 0),
        (f"{prefix}-decoder-past", "decoder_with_past_model", [sized(2, 1, 7), sized(1, 1, 3)], SPEECH_RULES, 0),
        (f"{prefix}-decoder-merged", "decoder_model_merged", [sized(2, 1, 7), sized(1, 5, 1) | {"branch": False}], SPEECH_RULES, 0),
    ]


def moonshine_sizes(batch, samples_each, frames, decoder, past):
    return {
        "batch_size": batch,
        "encoder_sequence_length": frames,
        "sequence_length": samples_each,
        "encoder_sequence_length_out": frames,
        "decoder_sequence_length": decoder,
        "past_decoder_sequence_length": past,
        "num_samples": samples_each,
        "audio_sequence_length": samples_each,
    }


def quiet(model):
    """Without noise the same text always sounds the same."""
    model.noise_scale = model.noise_scale_duration = 0.0


SOUNDS = [
    wave("wav2vec2", "wav2vec2", "automatic-speech-recognition", num_hidden_layers=1),
    wave("hubert", "hubert", "automatic-speech-recognition", **NARROW),
    wave("wavlm", "wavlm", "audio-classification", num_labels=5, **NARROW),
    wave("sew", "sew", "automatic-speech-recognition", **NARROW),
    hub.several(
        GROUP,
        "whisper",
        "automatic-speech-recognition-with-past",
        WHISPER,
        parts("whisper", lambda batch, decoder, past: whisper_sizes(batch, 3000, decoder, past), [whisper_sizes(1, 3000, 0, 0), whisper_sizes(2, 3000, 0, 0)]),
    ),
    hub.several(
        GROUP,
        "moonshine",
        "automatic-speech-recognition-with-past",
        {"vocab_size": VOCABULARY, "encoder_num_hidden_layers": 3, "decoder_num_hidden_layers": 3},
        parts(
            "moonshine",
            lambda batch, decoder, past: moonshine_sizes(batch, 16000, 40, decoder, past),
            [moonshine_sizes(2, 12345, 12345, 0, 0), moonshine_sizes(1, 20000, 20000, 0, 0)],
        ),
    ),
    hub.one(
        "mms-tts",
        GROUP,
        "vits",
        "text-to-audio",
        {"vocab_size": 40, "num_hidden_layers": 3, "noise_scale": 0.0, "noise_scale_duration": 0.0, "upsample_initial_channel": 256},
        [{"text_batch_size": 1, "batch_size": 1, "sequence_length": 14}, {"text_batch_size": 1, "batch_size": 1, "sequence_length": 25}],
        [("input_ids", samples.words(1, 40)), ("attention_mask", samples.constant(1))],
        prepare=quiet,
    ),
    hub.one(
        "audio-spectrogram-transformer",
        GROUP,
        "audio-spectrogram-transformer",
        "audio-classification",
        {"num_hidden_layers": 2, "max_length": 256, **NARROW},
        [{"batch_size": 2, "sequence_length": 256}],
        [("input_values", samples.normal(0.5))],
    ),
]


def speech_t5(folder):
    """Text to features, step by step, and a vocoder."""
    vocoder = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(upsample_initial_channel=128))
    liven(vocoder).save_pretrained(folder / "vocoder")
    options = {"vocab_size": 81, "hidden_size": 384, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}
    # Its dropout is random in inference, too.
    options["speech_decoder_prenet_dropout"] = 0.0
    files = hub.exported(
        hub.built("speecht5", "text-to-audio", options), folder / "exported", "text-to-audio", model_kwargs={"vocoder": str(folder / "vocoder")}
    )
    sizes = {
        "encoder_sequence_length": 14,
        "decoder_sequence_length": 5,
        "past_decoder_sequence_length": 4,
        "decoder_sequence_length + past": 5,
        "spectrogram_sequence_length": 4,
        "n_spectrums": 18,
        "n_spectrums x reduction_factor": 18,
        "batch_size": 1,
    }
    rules = [("input_ids", samples.words(4, 81)), ("use_cache_branch", samples.constant(True)), *SPEECH_RULES]
    for name, stem in SPEECH_T5.items():
        try:
            if stem not in files:
                raise FileNotFoundError(f"the export wrote {', '.join(sorted(files))}")
            yield Made(name, files[stem], hub.sets(files[stem], name, [sizes], rules, 1), unchecked=("present.*", "prob", "encoder_attention_mask"))
        except Exception as error:
            yield Made(name, error=str(error))


SPEECH_T5 = {
    "speecht5-encoder": "encoder_model",
    "speecht5-decoder": "decoder_model",
    "speecht5-decoder-past": "decoder_with_past_model",
    "speecht5-vocoder": "decoder_postnet_and_vocoder",
}

FAMILIES = [*SOUNDS, Family(GROUP, f"{hub.SOURCE} (speecht5)", list(SPEECH_T5), speech_t5)]
