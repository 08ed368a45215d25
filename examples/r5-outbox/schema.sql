-- The outbox. The partial index keeps the look for new rows cheap, however many were sent.
CREATE TABLE user_login (
    id serial PRIMARY KEY,
    username text,
    event_type text,
    event_time timestamp,
    sent_to_kafka boolean DEFAULT false
);
CREATE INDEX user_login_unsent ON user_login (id) WHERE sent_to_kafka IS NOT TRUE;
