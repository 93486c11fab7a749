-- Invokes a task, and returns the id of the execution. For psql, triggers and other languages:
--     select conductor.invoke('greet', '{"name": "Alice"}');
-- With dedupe_key, throttle or debounce it may be the id of an execution that existed before. Fails with CD001
-- if the task is unknown, and with CD002 if an argument is not valid. Public.
-- Locks: as invoke_many, in a user's transaction.
create or replace function conductor.invoke(
    task text, payload jsonb default 'null', run_at timestamptz default null,
    delay interval default null, priority integer default null, dedupe_key text default null,
    throttle interval default null, debounce interval default null, max_wait interval default null) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := conductor.uuid7();
    v_keyed boolean := dedupe_key is not null or throttle is not null or debounce is not null
                         or max_wait is not null;
begin
    if task is null then
        raise exception 'the task''s name is null' using errcode = 'CD002';
    end if;
    if jsonb_path_exists(payload, 'strict $.**{120} ? (@.type() == "array" || @.type() == "object")') then
        raise exception 'the payload nests more than 120 levels deep' using errcode = 'CD002';
    end if;
    -- Other times, also infinity, do not fit clients and the arithmetic on times.
    if run_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'run_at % lies outside the years 1 to 9999', run_at using errcode = 'CD002';
    end if;
    if delay not between '0' and '1000 years' then
        raise exception 'a delay of % is negative or longer than 1000 years', delay using errcode = 'CD002';
    end if;
    if octet_length(dedupe_key) not between 1 and 200 then
        raise exception 'a dedupe key has 1 to 200 bytes, not %', octet_length(dedupe_key) using errcode = 'CD002';
    end if;
    if throttle not between '1 millisecond' and '1000 years' then
        raise exception 'a throttle of % is shorter than a millisecond or longer than 1000 years', throttle
            using errcode = 'CD002';
    end if;
    if debounce not between '1 millisecond' and '1000 years' then
        raise exception 'a debounce of % is shorter than a millisecond or longer than 1000 years', debounce
            using errcode = 'CD002';
    end if;
    if max_wait is not null and debounce is null then
        raise exception 'max_wait bounds a debounce; give one with it' using errcode = 'CD002';
    end if;
    if max_wait not between debounce and '1000 years' then
        raise exception 'a max_wait of % is shorter than the debounce of % or longer than 1000 years', max_wait, debounce
            using errcode = 'CD002';
    end if;
    if throttle is not null and debounce is not null then
        raise exception 'throttle lets the first call through and debounce the last one; give one of them'
            using errcode = 'CD002';
    end if;
    if debounce is not null and (run_at is not null or delay is not null) then
        raise exception 'debounce says when the execution is due; give no run_at or delay with it'
            using errcode = 'CD002';
    end if;
    select coalesce(m.ids[1], v_id) into v_id
      from conductor.invoke_many(
          p_ids => array[v_id], p_tasks => array[task], p_payloads => array[coalesce(payload, 'null')::text],
          p_run_at => array[run_at], p_delay_ms => array[(extract(epoch from delay) * 1000)::bigint],
          p_priorities => array[priority], p_in_transaction => true, p_again => false,
          p_keys => case when v_keyed then array[dedupe_key] end,
          p_throttle_ms => case when v_keyed then array[(extract(epoch from throttle) * 1000)::bigint] end,
          p_debounce_ms => case when v_keyed then array[(extract(epoch from debounce) * 1000)::bigint] end,
          p_max_wait_ms => case when v_keyed then array[(extract(epoch from max_wait) * 1000)::bigint] end) m;
    return v_id;
end
$$;
