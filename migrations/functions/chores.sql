-- Takes a chore of the whole cluster if it is due; it is due again after p_every. Returns one row with the
-- position that the chore had reached, which may be null, or no row if the chore is not due or another process
-- takes it. Called by orchestrators. Usually the chore is not due, and nothing is locked.
-- Locks: chores (one row, if free).
create or replace function conductor.take_chore(p_name text, p_every interval)
returns table (position_before uuid)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- Also if it is due later than it can be: a clock was wrong.
    perform from conductor.chores c
      where c.name = p_name and (c.due_at <= clock_timestamp() or c.due_at > clock_timestamp() + p_every);
    if not found then
        return;
    end if;
    return query
    update conductor.chores c set due_at = clock_timestamp() + p_every, every = p_every
      from (select k.name from conductor.chores k
             where k.name = p_name and (k.due_at <= clock_timestamp() or k.due_at > clock_timestamp() + p_every)
               for no key update skip locked) mine
     where c.name = mine.name
    returning c.position;
end
$$;

-- Saves how far a chore has come. With p_again it is due at once, for any process. Called by the orchestrator
-- that has taken the chore.
-- Locks: chores (one row, waits).
create or replace function conductor.leave_chore(p_name text, p_position uuid, p_again boolean) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    update conductor.chores c
       set due_at = case when p_again then clock_timestamp() else c.due_at end, position = p_position
     where c.name = p_name;
$$;
