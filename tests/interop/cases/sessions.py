"""Persistent sessions of paho-mqtt, on brokers that share nothing: only the right node knows the session."""


def paho_finds_its_session_again(lab):
    """Ten clients each in 3.1.1 and 5 leave and return: session present, and the message sent meanwhile arrives."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for version in ("3.1.1", "5"):
        for number in range(10):
            client_id = f"keeper-{version}-{number}"
            client = lab.paho(client_id, version)
            assert not client.connect(port), f"{client_id} is new and found a session"
            client.subscribe(f"to/{client_id}")
            client.disconnect()
            home = next(broker for broker in brokers if broker.knows(client_id))
            publisher = lab.paho("publisher", version, persistent=False)
            publisher.connect(home.port)
            publisher.publish(f"to/{client_id}", client_id)
            publisher.disconnect()
            again = lab.paho(client_id, version)
            assert again.connect(port), f"{client_id} did not find its session in MQTT {version}"
            assert again.message() == client_id.encode()
            again.disconnect()


def a_session_made_away_is_kept_there(lab):
    """A client refused at home makes its session elsewhere, and finds it there again though its home would take it now."""
    brokers = lab.mosquittos()
    doors = lab.doors(brokers)
    port = lab.balancer(doors).port
    refusals = {"3.1.1": bytes([0x20, 2, 0, 3]), "5": bytes([0x20, 3, 0, 0x9C, 0])}
    for version, refusal in refusals.items():
        client_id = f"guest-{version}"
        broker = lab.home(brokers, port, client_id)
        home = next(door for door in doors if door.broker is broker)
        home.refuse(refusal)
        client = lab.paho(client_id, version)
        assert not client.connect(port)
        client.disconnect()
        assert home.refused, "its home was not asked first"
        home.welcome()
        again = lab.paho(client_id, version)
        assert again.connect(port), f"the session made away from home was not found in MQTT {version}"
        again.disconnect()
        home.refused = 0
