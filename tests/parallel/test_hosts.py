from t5x_mini.parallel import hosts


def test_where_an_object_lies_is_no_setting(monkeypatch):
    shared = []
    monkeypatch.setattr(hosts, "gather", lambda value: shared.append(value) or [value])
    hosts.check_same({"RunConfig.schedule": repr(object()), "TrainConfig.train_steps": "5"})
    assert shared == [{"RunConfig.schedule": "<object object>", "TrainConfig.train_steps": "5"}]
