"""torchrun: several processes share the work of one, and give what one gives."""

import json
import re
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import torch

from conftest import alone, launch, make_dataset, trained
from utils import cli, processes, torchrun
from utils.checkpoint import save_checkpoint, weights_content
from utils.data.datasets import worker_count


def errors_of(done, script):
    """The lines on stderr that the script itself printed."""
    return [line for line in done.stderr.splitlines() if line.startswith(f"{script}: ")]


@pytest.fixture
def scored(tiny_cfg, tmp_path):
    """(.data file, checkpoint) of 11 pictures, which are no whole number of batches, nor of batches per process."""
    listing = make_dataset(tmp_path / "set", 11)
    data = tmp_path / "d.data"
    data.write_text(f"classes=1\ntrain={listing}\nvalid={listing}\n")
    model = trained(tiny_cfg, dtype=torch.float32)
    save_checkpoint(tmp_path / "net.pth", weights_content(model, str(tiny_cfg), "run"))
    return data, tmp_path / "net.pth"


@pytest.mark.parametrize("images, batch, count", [(11, 4, 2), (11, 2, 3), (8, 4, 2), (1, 4, 3), (12, 1, 5), (3, 4, 1)])
def test_shares_are_whole_batches_that_together_are_all_images_in_order(monkeypatch, images, batch, count):
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda: rank)
        monkeypatch.setattr(processes, "world_size", lambda: count)
        shares.append(processes.share_of(images, batch))

    def give_all(own, together):
        together[:] = shares

    monkeypatch.setattr(processes, "rank", lambda: 0)
    monkeypatch.setattr(processes.dist, "gather_object", give_all)
    assert processes.gather_shares(shares[0], batch) == list(range(images))
    batches = [share[i:i + batch] for share in shares for i in range(0, len(share), batch)]
    assert all(part[0] % batch == 0 and part == list(range(part[0], part[-1] + 1)) for part in batches)


def test_two_processes_score_a_net_as_one_does_and_only_the_first_prints(scored, tiny_cfg, tmp_path):
    flags = ("--cfg", tiny_cfg, "--weights", scored[1], "--data", scored[0], "--n_cpu", "0", "--device", "cpu",
             "--batch_size", "4", "--backend", "torch", "--json")
    one = alone(tmp_path, "test.py", *flags, "one.json")
    two = launch(tmp_path, "test.py", *flags, "two.json")
    assert two.returncode == 0, two.stderr[-2000:]
    assert two.stdout == one.stdout
    results = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    assert results[0] == results[1] and results[0]["n_images"] == 11


def test_an_image_that_one_process_cannot_read_is_one_line_and_ends_all(scored, tiny_cfg, tmp_path):
    (tmp_path / "set/images/5.jpg").write_bytes(b"no picture")  # in the share of the second process
    done = launch(tmp_path, "test.py", "--cfg", tiny_cfg, "--weights", scored[1], "--data", scored[0], "--n_cpu", "0",
                  "--device", "cpu", "--batch_size", "4", "--json", "x.json")
    lines = errors_of(done, "test.py")
    assert done.returncode and len(lines) == 1 and "5.jpg: found a file that cannot be decoded" in lines[0]
    assert not (tmp_path / "x.json").exists()


def test_wrong_input_is_one_line_for_all_processes_and_restarts_and_stands_in_the_list_of_failures(tmp_path):
    done = launch(tmp_path, "train.py", "--data", "nowhere.data", options=("--max-restarts", "1"))
    lines = errors_of(done, "train.py")
    assert done.returncode and len(lines) == 1 and "nowhere.data" in lines[0] and not done.stdout
    listed = re.findall(r"traceback : (.*)", done.stderr)  # torchrun's page says what, not how
    assert lines[0] in listed and len(listed) == 2
    assert all(line == lines[0] or "SIGTERM" in line for line in listed)  # the other may be ended before it ends


def test_a_script_that_cannot_share_its_work_is_refused_by_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: pytest.fail("it ran"))
    assert end.value.code == 2 and "found 2 processes" in capsys.readouterr().err


def test_more_processes_than_gpus_are_an_error_that_says_how_many_there_may_be(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="4 processes on a machine of 2 .*--nproc_per_node=2"):
        processes.start(torch.device("cuda"))


@pytest.mark.parametrize("first", [0, 1, 2])
def test_processes_started_anew_agree_on_a_new_name_whatever_the_earlier_ones_left(first):
    """Also when one of them comes long before the others and finds only what is out of date."""
    store = torch.distributed.HashStore()
    names = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            early = pool.submit(torchrun.agreed_name, store, first, 3)
            assert wait([early], timeout=0.1).not_done
            others = [pool.submit(torchrun.agreed_name, store, rank, 3) for rank in {0, 1, 2} - {first}]
            (name,) = {future.result() for future in [early, *others]}
        assert name not in names
        names.append(name)


def test_loader_processes_share_the_cores_with_those_of_the_other_processes(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert worker_count(16, 1000) == 8 and worker_count(2, 1000) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(16, 1000) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert worker_count(16, 1000) == 1 and worker_count(0, 1000) == 0
