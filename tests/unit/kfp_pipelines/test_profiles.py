"""Node profiles."""

from pathlib import Path

import pytest

from kfp_pipelines.definition.placement import STAGES
from kfp_pipelines.profiles import ProfileError, parse_quantity, read_profiles

FILE = Path(__file__).parent / "profiles.yaml"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def test_the_narrowest_choice_wins_and_the_rest_use_the_default() -> None:
    found = read_profiles(FILE, ["a100", "smoke=submitter"], STAGES)
    assert found.find("smoke") == found.by_name["submitter"]
    assert found.find("train-diffusion") == found.by_name["a100"]
    gpu = read_profiles(FILE, ["default", "train-diffusion=submitter", "gpu=a100"], STAGES)
    assert [gpu.find(stage) for stage in ("train-autoencoder", "gate", "train-diffusion", "publish-diffusion")] == [
        found.by_name[name] for name in ("a100", "a100", "submitter", "default")
    ]
    assert read_profiles(FILE, ["smoke=submitter"], STAGES).find("train-diffusion") == found.by_name["default"]
    assert read_profiles(None, [], STAGES).find("train-diffusion") is None
    assert (gpu.devices("train-autoencoder"), gpu.devices("publish-diffusion")) == (1, 1)


@pytest.mark.parametrize(
    ("quantity", "number"), [("2", 2), ("500m", 0.5), ("1Ki", 1024), ("1.5Gi", 1.5 * 2**30), ("2M", 2e6), ("3k", 3000)]
)
def test_quantities_in_each_unit(quantity: str, number: float) -> None:
    assert parse_quantity(quantity) == number


def test_shared_memory_is_at_most_the_memory_unless_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("small: {memory: 2Gi}\nlarge: {memory: 64Gi}")
    found = read_profiles(tmp_path / "p.yaml", [], STAGES).by_name
    assert (found["small"].shm, found["large"].shm) == ("2Gi", "8Gi")


def test_numbers_are_quantities_too_and_a_train_job_may_mount_any_name(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: {cpu: 4, memory: 8000000000, trainJob: true, configMaps: {ca.crt: /a}}")
    found = read_profiles(tmp_path / "p.yaml", [], STAGES).by_name["a"]
    assert (found.cpu, found.memory) == ("4", "8000000000")


@pytest.mark.parametrize(("timeout", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7200), ("3d", 259200)])
def test_timeouts_in_each_unit(tmp_path: Path, timeout: str, seconds: int) -> None:
    (tmp_path / "p.yaml").write_text(f"gpu: {{timeout: {timeout}}}")
    assert read_profiles(tmp_path / "p.yaml", [], STAGES).by_name["gpu"].seconds == seconds


@pytest.mark.parametrize(
    ("text", "choices", "message"),
    [
        ("gpu: {}", ["cpu"], "profile: 'cpu' is not defined; defined: gpu"),
        ("gpu: {}", ["train=gpu"], "profile: 'train' is not a stage; permitted: gpu, prepare-data, "),
        ("gpu: {count: -1}", [], "gpu.count: -1 is not allowed; permitted: greater than or equal to 0"),
        ("gpu: {gpus: 1}", [], "gpu.gpus: there is no such field; permitted: nodeSelector, "),
        ("gpu: {timeout: 5}", [], "gpu.timeout: 5 is not allowed; permitted: a valid string"),
        ("gpu: {memory: lots}", [], "gpu.memory: 'lots' is not allowed; permitted: a string that matches"),
        (
            "gpu: {tolerations: [{effect: Maybe}]}",
            [],
            "gpu.tolerations.0.effect: 'Maybe' is not allowed; permitted: 'NoExecute'",
        ),
        ("gpu: {memory: 512m}", [], "gpu: memory: 512m is less than 1Mi; permitted: bytes, with a unit"),
        ("gpu: {cpu: 8Gi}", [], "gpu: cpu: 8Gi is not allowed; permitted: 1m to 10000, in cores"),
        ("gpu: {timeout: 99999d}", [], "gpu: timeout: 99999d is too long; permitted: at most 24855d"),
        ("gpu: {nodeSelector: {zone: a b}}", [], "gpu.nodeSelector.zone: 'a b' is not allowed"),
        ("gpu: {tolerations: [{key: a b}]}", [], "gpu.tolerations.0.key: 'a b' is not allowed"),
        ("gpu: {imagePullSecrets: [A_b]}", [], "gpu.imagePullSecrets.0: 'A_b' is not allowed"),
        ("gpu: {secrets: {Keys: {a: B}}}", [], "gpu.secrets.Keys.[key]: 'Keys' is not allowed"),
        ("gpu: {secrets: {keys: {a b: C}}}", [], "gpu.secrets.keys.a b.[key]: 'a b' is not allowed"),
        ("gpu: {pvc: {data: /}}", [], "gpu: pvc: data has the path /; permitted: an absolute path of a folder"),
        ("gpu: {shm: 64Gi, memory: 12Gi}", [], "gpu: shm: 64Gi is above memory, 12Gi"),
        ("gpu: {storageClass: fast}", [], "storageClass: fast requires ephemeralStorage"),
        ("gpu: {priorityClassName: batch}", [], "priorityClassName: batch requires trainJob: true"),
        ("gpu: {runtimeClassName: nvidia}", [], "runtimeClassName: nvidia requires trainJob: true"),
        ("gpu: {affinity: {podAffinity: {}}}", [], "affinity: podAffinity requires trainJob: true"),
        ("gpu: {memory: 1K}", [], "gpu.memory: '1K' is not allowed; permitted: a string that matches"),
        ("gpu: {queueName: Bad_Name}", [], "gpu.queueName: 'Bad_Name' is not allowed"),
        ("gpu: {tolerations: [{key: a, operator: Exists, value: b}]}", [], "value: b and operator Exists are both"),
        ("gpu: {tolerations: [{effect: NoSchedule}]}", [], "key: must be given, or operator: Exists"),
        ("gpu: {tolerations: [{key: a, tolerationSeconds: 9}]}", [], "tolerationSeconds: 9 requires effect: NoExecute"),
        ("gpu: {affinity: {nodeAffinity: {required: {}}}}", [], "nodeAffinity.required: Extra inputs are not"),
        (
            f"gpu: {{affinity: {{nodeAffinity: {{{PREFERRED}: [{{preference: {{}}}}]}}}}}}",
            [],
            "affinity: nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution.0.weight: Field required",
        ),
        ("gpu: {pvc: {a: data}}", [], "pvc: a has the path data; permitted: an absolute path"),
        ("gpu: {pvc: {a: /dev/shm}}", [], "pvc: a has the path /dev/shm, which shm has; permitted: another"),
        ("gpu: {pvc: {a: /a}, configMaps: {b: /a}}", [], "configMaps: b has the path /a, which pvc.a has"),
        ("gpu: {pvc: {a: /a}, configMaps: {a: /b}}", [], "configMaps: a and pvc.a would be two volumes of one name"),
        ("gpu: {configMaps: {ca.crt: /a}}", [], "configMaps: ca.crt cannot be mounted, because Kubeflow Pipelines"),
        ("gpu: {env: {A: b}, secrets: {s: {k: A}}}", [], "secrets.s: A is given by env too; permitted: one value"),
        ("gpu: {env: {A B: b}}", [], "env: 'A B' is not allowed; permitted: the name of an environment variable"),
        ("[gpu]", [], "must map names"),
        ("GPU: {}", [], "must map names"),
        ("a: [", [], "cannot be read"),
        ("a: \xff", [], "cannot be read"),  # in Latin-1
    ],
)
def test_a_mistake_names_its_field(tmp_path: Path, text: str, choices: list[str], message: str) -> None:
    (tmp_path / "profiles.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ProfileError) as error:
        read_profiles(tmp_path / "profiles.yaml", choices, STAGES)
    assert message in str(error.value)
