"""Gates: shutting one is cutting, its cost is the cost of the cut, training it leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from compress.core.random import generator
from compress.graph.cost_model import CostModel
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.surgery import cut, masked, plan_from_kept
from compress.graph.units import Block, ChannelGroup, Member
from compress.prune.gating.attended import Attention, attention_of
from compress.prune.gating.budgeted import learned_log_odds
from compress.prune.gating.expected_cost import ExpectedCost
from compress.prune.gating.folding import fold
from compress.prune.gating.hard_concrete import open_log_odds, sampled
from compress.prune.gating.placement import NotGated, find_sites, gated
from compress.prune.gating.training import GateTraining
from tests.compress.graph.networks import network, random_masks
from tests.toys import toy_model, toy_task


def given(gates):
    """A gate that says what it is told, for all inputs alike; whole where it is told nothing."""
    return lambda site, means: gates.get(site.name, torch.ones(site.num_gates)).float().view(1, -1)


def through(module, sites, gates, x_BCHW):
    with torch.no_grad(), gated(module, sites, given(gates)) as run:
        return run(x_BCHW)


def toy():
    model = toy_model()
    return model.module.eval(), trace_groups(model.module, model.input.example(), is_verified=False)


def training(rounds=4, seed=0):
    return GateTraining(toy_task(), num_batches=4, batch_size=24, seed=seed, rounds=rounds)


@pytest.mark.parametrize("name", ["toy", "plain", "resnet20", "mobilenet_v2"])
def test_shut_gates_give_the_outputs_of_the_masked_network(name):
    module, x_BCHW = network(name)
    groups = trace_groups(module, x_BCHW)
    sites = find_sites(module, groups, (), x_BCHW)
    assert [site.name for site in sites] == [group.name for group in groups]
    assert not any(site.is_shared or site.taken for site in sites)
    kept = random_masks(groups, 0)
    with torch.no_grad():
        wanted = masked(module, groups, kept)(x_BCHW)
        assert torch.allclose(through(module, sites, kept, x_BCHW), wanted, atol=1e-4 * float(wanted.abs().max()))
        assert not torch.allclose(module(x_BCHW), wanted, atol=1e-2 * float(wanted.abs().max()))
        assert torch.equal(through(module, sites, {}, x_BCHW), module(x_BCHW))


def test_readers_whose_weights_others_take_are_gated_through_their_weights():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(16, 8, 2, 4, 32, 48, num_classes=3).eval()
    nn.init.normal_(module.heads.head.weight)
    x_BCHW = torch.randn(2, 3, 16, 16, generator=generator(0, "vit"))
    groups = tuple(
        group
        for group in trace_groups(module, x_BCHW, is_verified=False)
        if not any(isinstance(module.get_submodule(member.path), nn.LayerNorm) for member in group.members)
    )
    sites = find_sites(module, groups, (), x_BCHW)
    assert any(site.taken and site.is_shared for site in sites)
    assert any(site.called and not site.is_shared for site in sites)
    kept = random_masks(groups, 0)
    with torch.no_grad():
        wanted = masked(module, groups, kept)(x_BCHW)
        assert not torch.allclose(module(x_BCHW), wanted, atol=1e-3)
    assert torch.allclose(through(module, sites, kept, x_BCHW), wanted, atol=1e-5)
    gates = {site.name: torch.ones(1, site.num_gates, requires_grad=True) for site in sites}
    with gated(module, sites, lambda site, means: gates[site.name]) as run:
        run(x_BCHW).square().sum().backward()
    assert all(gate.grad.abs().sum() > 0 for gate in gates.values())


def test_a_shut_block_is_a_dropped_block():
    module, x_BCHW = network("resnet20")
    blocks = find_blocks(module)
    sites = find_sites(module, (), blocks, x_BCHW)
    assert [(site.name, site.num_gates, site.is_block) for site in sites] == [(b.name, 1, True) for b in blocks]
    gone = [blocks[0].name, blocks[3].name]
    with torch.no_grad():
        wanted = cut(module, {"kind": "cut", "dropped": gone, "layers": {}})(x_BCHW)
    gates = {name: torch.zeros(1) for name in gone}
    assert torch.allclose(through(module, sites, gates, x_BCHW), wanted, atol=1e-5)
    half = through(module, sites[:1], {gone[0]: torch.tensor([0.5])}, x_BCHW)
    assert not torch.allclose(half, through(module, sites[:1], {gone[0]: torch.zeros(1)}, x_BCHW))


def test_every_input_may_have_its_own_gates():
    module, groups = toy()
    x_BCHW = torch.randn(3, 1, 8, 8, generator=generator(0, "inputs"))
    sites = find_sites(module, groups, find_blocks(module), x_BCHW)
    own = {site.name: torch.rand(3, site.num_gates, generator=generator(0, site.name)) for site in sites}
    with torch.no_grad(), gated(module, sites, lambda site, means: own[site.name]) as run:
        together = run(x_BCHW)
    for b in range(3):
        alone = through(module, sites, {name: gates[b] for name, gates in own.items()}, x_BCHW[b : b + 1])
        assert torch.allclose(together[b : b + 1], alone, atol=1e-5)


def test_what_a_gate_sees_are_means_over_places():
    module, x_BCHW = network("plain")
    groups = trace_groups(module, x_BCHW, is_verified=False)
    sites, seen = find_sites(module, groups, (), x_BCHW), {}

    def look(site, means):
        seen.setdefault(site.name, []).append(means())
        return torch.ones(1, site.num_gates)

    with torch.no_grad(), gated(module, sites, look) as run:
        run(x_BCHW)
    with torch.no_grad():
        a_BCHW = module.act(module.a(x_BCHW))
        b_BCHW = torch.relu(module.b(a_BCHW))
    assert [len(seen[name]) for name in ("a", "b")] == [2, 1]
    assert all(torch.allclose(means_BC, a_BCHW.mean((2, 3)), atol=1e-6) for means_BC in seen["a"])
    assert torch.allclose(seen["b"][0], b_BCHW.mean((2, 3)), atol=1e-6)
    assert all(means_BC.shape == (2, 6) for means_BC in seen["up"])


def test_channels_that_nobody_reads_get_no_gates():
    module = nn.Sequential(nn.Conv2d(1, 3, 1))
    alone = ChannelGroup("0", 3, (Member("0", "out", ((0,), (1,), (2,)), 3),))
    with pytest.warns(NotGated, match="nothing reads them"):
        assert find_sites(module, (alone,), (), torch.randn(2, 1, 4, 4)) == ()


@pytest.mark.parametrize("name", ["toy", "plain", "resnet20"])
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_expected_cost_of_certain_channels_is_the_cost_of_the_cut(name, quantity):
    module, x_BCHW = network(name)
    groups, blocks = trace_groups(module, x_BCHW, is_verified=False), find_blocks(module)
    model = CostModel(module, groups, x_BCHW[:1])
    expected = ExpectedCost(model, quantity, groups, blocks, torch.device("cpu"))
    kept, dropped = random_masks(groups, 1), [block.name for block in blocks[::2]]
    present = {key: mask_C.float() for key, mask_C in kept.items()} | {key: torch.zeros(1) for key in dropped}
    assert float(expected(present)) == pytest.approx(model.quantity(quantity)(kept, dropped), abs=1)
    assert float(expected({})) == pytest.approx(model.quantity(quantity)({}), abs=1)


def test_expected_cost_rises_with_every_probability():
    module, groups = toy()
    blocks = find_blocks(module)
    expected = ExpectedCost(
        CostModel(module, groups, torch.zeros(1, 1, 8, 8)), "macs", groups, blocks, torch.device("cpu")
    )
    present = {group.name: torch.full((group.num_channels,), 0.5, requires_grad=True) for group in groups}
    present |= {block.name: torch.full((1,), 0.5, requires_grad=True) for block in blocks}
    expected(present).backward()
    assert all((probability.grad > 0).all() for probability in present.values())


def test_gates_are_open_as_often_as_their_log_odds_say():
    log_alpha_C = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    z_BC = sampled(log_alpha_C, torch.rand(40_000, 4, generator=generator(0, "u")))
    assert z_BC.min() == 0
    assert z_BC.max() == 1
    assert torch.allclose((z_BC > 0).float().mean(0), open_log_odds(log_alpha_C).sigmoid(), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{"macs": 0.5}, {"params": 0.4}, {"macs": 0.6, "params": 0.45}, {}])
@pytest.mark.parametrize("has_blocks", [False, True])
def test_learned_gates_meet_their_budget(parts, has_blocks):
    module, groups = toy()
    blocks = find_blocks(module) if has_blocks else ()
    model = CostModel(module, groups, torch.zeros(1, 1, 8, 8))
    whole = {name: model.quantity(name)({}) for name in ("macs", "params")}
    limits = {name: part * whole[name] for name, part in parts.items()}
    log_odds = learned_log_odds(module, groups, training(rounds=40), blocks=blocks, limits=limits)
    present = {name: own_C.sigmoid() for name, own_C in log_odds.items()}
    spent = {
        name: float(ExpectedCost(model, name, groups, blocks, torch.device("cpu"))(present)) / limit
        for name, limit in (limits or {"macs": 0.5 * whole["macs"]}).items()
    }
    assert max(spent.values()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("learn", [learned_log_odds, attention_of])
def test_training_leaves_no_trace(learn):
    module, groups = toy()
    module.train().requires_grad_(True)
    module.bn1.eval()
    module.linear.weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    stream = torch.get_rng_state()
    learn(module, groups, training(), blocks=find_blocks(module))
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["linear.weight"]
    assert [path for path, layer in module.named_modules() if not layer.training] == ["bn1"]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize(
    "learn", [learned_log_odds, lambda *args: {k: a.mean_NC for k, a in attention_of(*args).items()}]
)
def test_same_seed_same_gates(learn):
    module, groups = toy()
    one, two, other = (learn(module, groups, training(seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_attention_says_what_it_says_for_each_batch():
    module, groups = toy()
    found = attention_of(module, groups, training(rounds=1), blocks=(Block("block"),))
    assert list(found) == [*(group.name for group in groups), "block"]
    for group in groups:
        own = found[group.name]
        assert own.mean_NC.shape == (4, group.num_channels)
        assert own.spread_C.shape == (group.num_channels,)
        assert ((own.mean_NC > 0) & (own.mean_NC < 1)).all()
    assert found["block"].mean_NC.shape == (4, 1)


def test_folded_gates_are_gates():
    module, x_BCHW = network("resnet20")
    groups = trace_groups(module, x_BCHW, is_verified=False)
    gates = {g.name: torch.rand(g.num_channels, generator=generator(0, g.name)) for g in groups}
    still = {name: Attention(gate_C.view(1, -1), torch.zeros_like(gate_C)) for name, gate_C in gates.items()}
    looking = groups[2].name
    still[looking] = Attention(still[looking].mean_NC, torch.full_like(gates[looking], 0.2))
    folded, names = fold(module, groups, still)
    padded = {g.name for g in groups if any((m.path[-8:], m.axis) == ("shortcut", "in") for m in g.members)}
    assert set(names) == {group.name for group in groups} - padded - {looking}
    sites = find_sites(module, groups, (), x_BCHW)
    with torch.no_grad():
        wanted = through(module, sites, {name: gates[name] for name in names}, x_BCHW)
        assert torch.allclose(folded(x_BCHW), wanted, atol=1e-5)
    plan = plan_from_kept(groups, random_masks(groups, 0))
    assert cut(folded, plan)(x_BCHW).shape == wanted.shape
