"""Through the encrypted listener with a password, as a company's Kafka asks for it."""

from conftest import Trial
from harness.envelopes import Items, items
from harness.program import Config
from harness.sameness import assert_same


def secured(trial: Trial) -> Config:
    config = trial.config(trial.topic())
    config["kafka"]["bootstrap_servers"] = trial.stack["FIRN_KAFKA_SASL_BOOTSTRAP"]
    config["kafka"]["properties"] |= {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": trial.stack["FIRN_KAFKA_SASL_MECHANISM"],
        "sasl.username": trial.stack["FIRN_KAFKA_SASL_USERNAME"],
        "sasl.password": "${FIRN_KAFKA_SASL_PASSWORD}",
        "ssl.ca.location": trial.stack["FIRN_KAFKA_CA_PEM"],
    }
    return config


def test_a_table_fed_through_sasl_ssl(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(1_000)))
    source.remove(range(0, 1_000, 7))
    with trial.firn(secured(trial)) as firn:
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        assert firn.terminate() == 0, firn.tail()
    assert trial.stack["FIRN_KAFKA_SASL_PASSWORD"] not in firn.log(), "the password is in the log"


def test_a_wrong_password_is_named(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    config = secured(trial)
    config["kafka"]["properties"]["sasl.password"] = "${FIRN_E2E_WRONG:-wrong}"
    firn = trial.firn(config)
    with firn:
        firn.wait_until_it_says("authentication", within_s=60)
    answer = firn.command("check")
    assert answer.returncode != 0
    said = (answer.stdout + answer.stderr).lower()
    assert "authentication" in said and "sasl" in said, said


def test_a_wrong_authority_is_named(trial: Trial) -> None:
    """A certificate that the configured authority did not sign: not a matter of the password."""
    trial.kafka.create(trial.topic())
    config = secured(trial)
    del config["kafka"]["properties"]["ssl.ca.location"]
    firn = trial.firn(config)
    with firn:
        firn.wait_until_it_says("certificate", within_s=60)
