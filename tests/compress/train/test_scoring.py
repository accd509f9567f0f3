import pytest
import torch
from torch import nn

from compress.core import task as task_module
from compress.train.scoring import accuracy, device_of, logits_of
from tests.toys import toy_model, toy_task


class Knows(nn.Module):
    """Says class 0 always."""

    def forward(self, x_BCHW):
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(x_BCHW), 3)


def test_accuracy_of_a_constant_answer_is_the_share_of_its_class():
    task = toy_task()
    share = float((task.split("validation").labels_B == 0).double().mean())
    assert accuracy(Knows(), task, "validation") == share


def test_logits_come_in_file_order_whatever_the_batch():
    task, module = toy_task(), toy_model().module
    logits_NC, labels_N = logits_of(module, task, "validation", batch_size=7)
    other_NC, _ = logits_of(module, task, "validation", batch_size=48)
    assert logits_NC.shape == (48, 3)
    assert torch.equal(labels_N, task.split("validation").labels_B)
    assert torch.allclose(logits_NC, other_NC, atol=1e-5)
    assert not logits_NC.is_inference()


def test_limit_takes_the_first():
    task, module = toy_task(), toy_model().module
    logits_NC, labels_N = logits_of(module, task, "validation", limit=5)
    assert len(logits_NC) == 5
    assert torch.equal(labels_N, task.split("validation").labels_B[:5])


def test_modes_are_left_as_they_were():
    module = toy_model().module.train()
    module.bn1.eval()
    before = module.bn2.running_mean.clone()
    accuracy(module, toy_task(), "validation")
    assert module.training
    assert module.bn2.training
    assert not module.bn1.training
    assert torch.equal(before, module.bn2.running_mean)


def test_test_data_stays_sealed():
    sealed = getattr(task_module, "SealedTestSplit", None) or task_module.TestSplitSealed
    with pytest.raises(sealed):
        accuracy(Knows(), toy_task(), "test")


def test_no_inputs_is_an_error():
    with pytest.raises(ValueError, match="no inputs"):
        accuracy(Knows(), toy_task(), "validation", limit=0)


def test_device_of_a_network_without_parameters():
    assert device_of(Knows()) == torch.device("cpu")
