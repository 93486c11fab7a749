-- Returns a text as a point in time, or null if it is not one. Called by compares.
create or replace function conductor.as_time(p_text text) returns timestamptz
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if p_text !~ '^\d{4,6}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$' then
        return null;
    end if;
    return p_text::timestamptz;
exception when data_exception then
    return null;
end
$$;

-- Returns whether a comparison of a filter holds. Values of different types are never equal, different, less or
-- greater. Called by matches.
create or replace function conductor.compares(p_op text, p_value jsonb, p_with jsonb, p_as text) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_type text := jsonb_typeof(p_value);
    v_text text collate "C";
    v_with text collate "C";
    -- Less (-1), equal (0) or greater (1).
    v_sign integer;
begin
    if v_type is distinct from jsonb_typeof(p_with) then
        return false;
    elsif v_type = 'boolean' then
        return case p_op when 'eq' then p_value = p_with when 'ne' then p_value <> p_with else false end;
    elsif v_type = 'number' then
        -- Not by their difference, which may be too large for a number.
        v_sign := case when p_value::numeric < p_with::numeric then -1
                       when p_value::numeric = p_with::numeric then 0 else 1 end;
    elsif v_type = 'string' and p_as = 'time' then
        v_sign := sign(extract(epoch from conductor.as_time(p_value #>> '{}'))
                       - extract(epoch from conductor.as_time(p_with #>> '{}')));
    elsif v_type = 'string' then
        v_text := p_value #>> '{}';
        v_with := p_with #>> '{}';
        v_sign := case when v_text < v_with then -1 when v_text = v_with then 0 else 1 end;
    else
        return false;
    end if;
    return coalesce(
        case p_op when 'eq' then v_sign = 0 when 'ne' then v_sign <> 0
                  when 'lt' then v_sign < 0 when 'le' then v_sign <= 0
                  when 'gt' then v_sign > 0 when 'ge' then v_sign >= 0 end, false);
end
$$;

-- Returns whether a filter lets a payload through. A filter that is null lets everything through. Returns false
-- and never fails if the filter has an unknown operator or nests more than 120 levels deep, or if the payload
-- cannot be read (null). Called wherever events and changes of rows meet a filter.
create or replace function conductor.matches(p_filter jsonb, p_payload jsonb, p_depth integer default 0) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_op text := p_filter->>'op';
    v_value jsonb;
    v_part jsonb;
begin
    if p_filter is null or p_filter = 'null' then
        return true;
    end if;
    if p_payload is null or p_depth > 120 then
        return false;
    end if;
    if v_op in ('and', 'or') then
        if jsonb_typeof(p_filter->'of') is distinct from 'array' then
            return false;
        end if;
        for v_part in select e from jsonb_array_elements(p_filter->'of') as e loop
            if conductor.matches(v_part, p_payload, p_depth + 1) <> (v_op = 'and') then
                return v_op = 'or';
            end if;
        end loop;
        return v_op = 'and';
    elsif v_op = 'not' then
        return jsonb_typeof(p_filter->'of') = 'object' and not conductor.matches(p_filter->'of', p_payload, p_depth + 1);
    end if;
    if jsonb_typeof(p_filter->'path') is distinct from 'array' then
        return false;
    end if;
    v_value := p_payload #> array(select jsonb_array_elements_text(p_filter->'path'));
    if v_op = 'null' then
        return v_value is null or v_value = 'null';
    elsif v_op in ('same', 'differs') then
        return jsonb_typeof(p_filter->'other') = 'array'
           and (coalesce(v_value, 'null')
                = coalesce(p_payload #> array(select jsonb_array_elements_text(p_filter->'other')), 'null'))
               = (v_op = 'same');
    elsif v_op = 'in' then
        if jsonb_typeof(p_filter->'values') is distinct from 'array' then
            return false;
        end if;
        for v_part in select e from jsonb_array_elements(p_filter->'values') as e loop
            if conductor.compares('eq', v_value, v_part, p_filter->>'as') then
                return true;
            end if;
        end loop;
        return false;
    end if;
    return conductor.compares(v_op, v_value, p_filter->'value', p_filter->>'as');
end
$$;
