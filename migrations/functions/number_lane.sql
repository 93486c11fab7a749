-- Gives a new lane the next number that no lane has. If there are many lanes with a key that is used only once,
-- the numbers run out within a year and start again. The trigger of conductor.lanes.
create or replace function conductor.number_lane() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- If another role put this on its own table, "new.id" might have a type with casts of that role, and this
    -- runs with the rights of the owner.
    if tg_relid <> 'conductor.lanes'::regclass then
        raise exception 'this trigger belongs to conductor.lanes' using errcode = 'CD002';
    end if;
    while exists (select from conductor.lanes a where a.id = new.id) loop
        new.id := nextval(pg_get_serial_sequence('conductor.lanes', 'id'));
    end loop;
    return new;
end
$$;

-- Only once, because to replace a trigger locks the table.
do $$
begin
    if not exists (select from pg_trigger t where t.tgrelid = 'conductor.lanes'::regclass and t.tgname = 'number_lane') then
        create trigger number_lane before insert on conductor.lanes for each row execute function conductor.number_lane();
    end if;
end
$$;
