"""One decision as a function of recorded values, so that it can be made again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strategy.core.ensemble import EnsembleLimits, combine
from strategy.core.plain import from_json, to_json
from strategy.core.policy import PolicyLimits, PolicyState, decide
from strategy.core.pricing import ExitPlan, plan_exit
from strategy.core.risk import RiskVerdict, check_entry
from strategy.core.risk_limits import RiskLimits, RiskState
from strategy.core.values import Consensus, Probabilities, Purpose, Signal
from strategy.core.vision import VisionEffect, restrain
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason


@dataclass(frozen=True, slots=True)
class DecisionRules:
    """What does not change during a run; recorded once, with the run.

    Attributes:
        weights: Voter -> weight.
        ensemble: Quorum.
        policy: When to enter and leave.
        risk: Limits.
    """

    weights: Mapping[str, float]
    ensemble: EnsembleLimits
    policy: PolicyLimits
    risk: RiskLimits


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """What a decision is made from; recorded with it.

    Attributes:
        votes: Voter -> its answer in time, or why there is none.
        policy: Position and session.
        risk: Account, quote and counters.
        vision: What the reading of an earlier chart does to an entry; None: nothing.
    """

    votes: Mapping[str, Outcome[Probabilities]]
    policy: PolicyState
    risk: RiskState
    vision: VisionEffect | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What came out.

    Attributes:
        consensus: Of the voters.
        signal: Of the policy, after what a reading of a chart did to it.
        verdict: Of the risk checks; None unless the signal is an ENTRY.
        exit: Order that closes the position; None unless the signal is an EXIT.
        restrained: The policy's signal where a reading vetoed or shrank it; else None.
    """

    consensus: Consensus
    signal: Signal
    verdict: RiskVerdict | None
    exit: ExitPlan | None
    restrained: Signal | None = None


def make_decision(given: DecisionInput, rules: DecisionRules) -> Decision:
    """Run ensemble, policy and risk. The same input gives the same decision, to the last bit."""
    consensus = combine(given.votes, rules.weights, rules.ensemble.quorum_voters, rules.ensemble.min_weight)
    wanted = decide(consensus, given.policy, rules.policy)
    signal = restrain(wanted, given.vision)
    verdict = check_entry(signal, given.risk, rules.risk) if signal.purpose is Purpose.ENTRY else None
    closing = plan_exit(given.risk, rules.risk) if signal.purpose is Purpose.EXIT else None
    return Decision(consensus, signal, verdict, closing, None if signal is wanted else wanted)


def input_to_json(given: DecisionInput) -> dict[str, Any]:
    """Return plain JSON for the journal (DecisionRow.state); call records are journalled elsewhere."""
    votes: dict[str, Any] = {}
    for name, vote in sorted(given.votes.items()):
        if isinstance(vote, Answer):
            votes[name] = {"probabilities": to_json(vote.value)}
        else:
            votes[name] = {"reason": vote.reason.value, "detail": vote.detail}
    return {
        "votes": votes,
        "policy": to_json(given.policy),
        "risk": to_json(given.risk),
        "vision": to_json(given.vision),
    }


def input_from_json(data: Mapping[str, Any]) -> DecisionInput:
    """Return what `input_to_json` wrote; the votes' call records are empty.

    Raises:
        ValueError: Not such an object; the message names the field.
    """
    votes: dict[str, Outcome[Probabilities]] = {}
    for name, vote in data["votes"].items():
        call = CallRecord(name, "", 0, 0, 0)
        if "probabilities" in vote:
            votes[name] = Answer(from_json(Probabilities, vote["probabilities"]), call)
        else:
            votes[name] = NoAnswer(Reason(vote["reason"]), vote["detail"], call)
    effect = data.get("vision")  # decisions of before there were readings have none
    return DecisionInput(
        votes,
        from_json(PolicyState, data["policy"]),
        from_json(RiskState, data["risk"]),
        None if effect is None else from_json(VisionEffect, effect),
    )


def rules_to_json(rules: DecisionRules) -> dict[str, Any]:
    """Return plain JSON for the journal."""
    data: dict[str, Any] = to_json(rules)
    return data


def rules_from_json(data: Mapping[str, Any]) -> DecisionRules:
    """Return what `rules_to_json` wrote.

    Raises:
        ValueError: Not such an object; the message names the field.
    """
    return from_json(DecisionRules, data)


def remake(state: Mapping[str, Any], rules: Mapping[str, Any]) -> Decision:
    """Make a recorded decision again from its state and the run's rules, both as journalled."""
    return make_decision(input_from_json(state), rules_from_json(rules))


def checks_to_json(verdict: RiskVerdict | None) -> list[dict[str, Any]]:
    """Return the checks for DecisionRow.risk_checks; what is not a number is a string."""
    return [] if verdict is None else [to_json(check) for check in verdict.checks]
